"""Calls to the outside: their registration, their making, and what their results mean."""
