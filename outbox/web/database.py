"""The database of a service, opened with the settings that the promises need."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

from outbox import sqlite

_CONNECT_TIMEOUT = 5.0
_BOUNDS = {
    "lock_timeout": "5s",
    "statement_timeout": "15s",
    # A process that hangs within a transaction must not keep its locks.
    "idle_in_transaction_session_timeout": "10s",
}
"""What every transaction on PostgreSQL may take, unless it sets a bound of its own."""


@dataclass(frozen=True)
class Database:
    """`engine` and `sessions` write. `reading` is for one statement that reads: without a
    transaction of its own on PostgreSQL, and without waiting for writers on SQLite."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    reading: AsyncEngine


def open_database(url: str, *, name: str, pool_size: int = 10, pool_overflow: int = 10) -> Database:
    """Connects only when it is used. `name` is what the server's administrators see. Errors do not
    quote what people wrote."""
    if url.startswith("sqlite"):
        engine = create_async_engine(
            url, pool_size=pool_size, max_overflow=pool_overflow, hide_parameters=True
        )
        sqlite.configure(engine)
        reading = engine.execution_options(**sqlite.READ_ONLY)
    else:
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_overflow,
            hide_parameters=True,
            # A thread's status is read after its lock, in a statement of its own: that is only
            # right where each statement sees what was committed before it.
            isolation_level="READ COMMITTED",
            connect_args=_arguments(url, name),
        )
        event.listen(engine.sync_engine, "connect", _set_bounds)
        reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    return Database(engine, async_sessionmaker(engine, expire_on_commit=False), reading)


def _arguments(url: str, name: str) -> dict[str, object]:
    if url.startswith("postgresql+asyncpg"):
        return {"timeout": _CONNECT_TIMEOUT, "server_settings": {"application_name": name}}
    return {"connect_timeout": int(_CONNECT_TIMEOUT), "application_name": name}


def _set_bounds(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # By a statement, and not while connecting: connection poolers refuse settings there.
    cursor = connection.cursor()
    bounds = (f"set_config('{name}', '{value}', false)" for name, value in _BOUNDS.items())
    cursor.execute(f"SELECT {', '.join(bounds)}")
    cursor.close()
    connection.commit()
