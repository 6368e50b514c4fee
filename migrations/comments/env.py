"""Alembic's entry to the history of the comments service."""

from migrations import environment

environment.run()
