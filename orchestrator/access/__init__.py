"""Tokens and sessions, and what they open."""
