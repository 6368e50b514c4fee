"""Alembic's entry to the history of the articles service."""

from migrations import environment

environment.run()
