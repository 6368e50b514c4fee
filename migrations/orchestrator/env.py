"""Alembic's entry to the history of the orchestrator."""

from migrations import environment

environment.run()
