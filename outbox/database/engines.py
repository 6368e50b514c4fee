"""Engines derived from another one, for a purpose of the library's own."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import sqlite
from outbox.errors import IsolationRefused

_SEEING_ALL = "READ COMMITTED"
_DERIVED_FROM = "sagabox_derived_from"


def seeing_all(engine: AsyncEngine) -> AsyncEngine:
    """The engine for transactions in which each statement sees what others have committed before
    it, whatever isolation level `create_engine()`, the role or the database say.

    Raises IsolationRefused where execution options of the engine say another one.
    """
    if engine.dialect.name != "postgresql":
        return engine
    level = engine.get_execution_options().get("isolation_level", _SEEING_ALL)
    if level != _SEEING_ALL:
        # SQLAlchemy sets the level of the first options last.
        raise IsolationRefused.of_engine(level)
    return engine.execution_options(isolation_level=_SEEING_ALL, **{_DERIVED_FROM: engine})


def reading(engine: AsyncEngine) -> AsyncEngine:
    """The engine for single statements that read.

    On PostgreSQL each costs one round trip instead of three, for there is no BEGIN and no COMMIT
    around it; on SQLite it waits for no writer, and cannot write.
    """
    if engine.dialect.name == "postgresql":
        # Of two levels SQLAlchemy takes the one that was given first.
        origin: AsyncEngine = engine.get_execution_options().get(_DERIVED_FROM, engine)
        return origin.execution_options(isolation_level="AUTOCOMMIT")
    return engine.execution_options(**sqlite.READ_ONLY)
