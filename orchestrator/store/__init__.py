"""Runs in the database: rows to values, and every statement."""
