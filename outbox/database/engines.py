"""Engines derived from another one, for a purpose that needs no transaction of its own."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import sqlite


def reading(engine: AsyncEngine) -> AsyncEngine:
    """The engine for single statements that read.

    On PostgreSQL each costs one round trip instead of three, for there is no BEGIN and no COMMIT
    around it; on SQLite it waits for no writer, and cannot write.
    """
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    return engine.execution_options(**sqlite.READ_ONLY)
