"""Engines derived from another one, for a purpose of the library's own."""

from __future__ import annotations

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import sqlite
from outbox.database.sqlalchemy_internals import prepares
from outbox.errors import IsolationRefused

_SEEING_ALL = "READ COMMITTED"
_DERIVED_FROM = "sagabox_derived_from"


def seeing_all(engine: AsyncEngine) -> AsyncEngine:
    """The engine for transactions in which each statement sees what others have committed before
    it. `create_engine()`, the role or the database may say another isolation level.

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
    around it, unless the engine is made for a pooler; on SQLite it waits for no writer, and cannot
    write.
    """
    if engine.dialect.name == "postgresql":
        return by_statement(engine)
    return engine.execution_options(**sqlite.READ_ONLY)


def by_statement(engine: AsyncEngine) -> AsyncEngine:
    """The engine for transactions of a single statement: on PostgreSQL without BEGIN and COMMIT,
    unless its connections prepare nothing, as those for a pooler.
    """
    if engine.dialect.name != "postgresql":
        return engine
    # Of two levels SQLAlchemy takes the one that was given first.
    origin: AsyncEngine = engine.get_execution_options().get(_DERIVED_FROM, engine)
    derived = origin.execution_options(isolation_level="AUTOCOMMIT")
    event.listen(derived.sync_engine, "engine_connect", _hold_together)
    return derived


def _hold_together(connection: Connection) -> None:
    # asyncpg sends a statement in two parts. Where statements have names, as SQLAlchemy's manual
    # has them for PgBouncer, it lets the server forget an earlier one in between: a pooler then
    # hands the second part to another connection, unless a transaction is around both. And only
    # within one does the library set its bounds behind a pooler.
    dbapi = connection.connection.dbapi_connection
    if dbapi is not None and not prepares(connection.dialect.driver, dbapi):
        connection.execution_options(isolation_level=_SEEING_ALL)
