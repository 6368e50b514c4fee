"""The database of a service, opened with the settings that the promises need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

from outbox import sqlite
from outbox.database.address.broken import broken_off
from outbox.database.address.passwords import Password, ask_password
from outbox.database.address.poolers import Way
from outbox.database.address.urls import connecting
from outbox.database.engines import reading
from outbox.tables import DEFAULT_TABLES, Tables

_CONNECT_TIMEOUT = 5.0
_BOUNDS = {
    "lock_timeout": "5s",
    "statement_timeout": "15s",
    # A process that hangs within a transaction must not keep its locks.
    "idle_in_transaction_session_timeout": "10s",
    # One that hangs, or is gone, after it has had a statement prepared and before it runs that,
    # counts as neither idle nor at a statement: no other bound ends it. From PostgreSQL 17 on.
    "transaction_timeout": "30s",
    # The same for a machine that is gone, in every version.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}
"""The time that every transaction on PostgreSQL may take, unless it sets a bound of its own, and
after how many seconds the server checks whether a silent client is still there."""
_SILENCE = 20.0
"""Seconds without an answer after which a connection counts as lost. PostgreSQL itself ends every
statement sooner, so after them the server is gone, or cannot answer."""


class ConnectionSilent(ConnectionError):
    """PostgreSQL has not answered for too long; what it was asked last may have taken effect."""

    sqlstate = "08006"  # connection failure: the reason that `troubles` finds


@dataclass(frozen=True)
class Database:
    """A service's database: `engine` and `sessions` write. `reading` is for single statements that
    read, without BEGIN and COMMIT on PostgreSQL, and without waiting for writers on SQLite."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    reading: AsyncEngine
    tables: Tables = DEFAULT_TABLES
    """Those of the installation that uses it."""


def open_database(
    url: str,
    *,
    name: str,
    pool_size: int = 20,
    pool_overflow: int = 0,
    connect_args: Mapping[str, object] = MappingProxyType({}),
    busy_timeout: float | None = None,
    tables: Tables = DEFAULT_TABLES,
    password: Password | None = None,
) -> Database:
    """Open the database, without connecting yet; the URL is one of `database_url`. The server's
    administrators see `name`, unless the URL has another one. Errors do not quote users' texts.
    `connect_args` are the driver's, and `password` is as for `ask_password`, on PostgreSQL;
    `busy_timeout` is as for `sqlite.configure`, on SQLite."""
    if url.startswith("sqlite"):
        engine = create_async_engine(
            url, pool_size=pool_size, max_overflow=pool_overflow, hide_parameters=True
        )
        sqlite.configure(engine, busy_timeout=busy_timeout or sqlite.DEFAULT_BUSY_TIMEOUT)
    else:
        address, given = connecting(url)
        engine = create_async_engine(
            address,
            pool_size=pool_size,
            max_overflow=pool_overflow,
            hide_parameters=True,
            # A thread's status is read after its lock, in a statement of its own: that is only
            # right where each statement sees what was committed before it.
            isolation_level="READ COMMITTED",
            connect_args=_arguments(address, name) | given | dict(connect_args),
        )
        if password is not None:
            ask_password(engine, password)
        way = Way()
        event.listen(engine.sync_engine, "do_connect", way.connect)
        _bound(engine.sync_engine, way)
        event.listen(engine.sync_engine, "handle_error", _give_up_the_silent, retval=True)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    return Database(engine, sessions, reading(engine), tables)


def _arguments(url: URL, name: str) -> dict[str, object]:
    if url.get_driver_name() == "asyncpg":
        return {
            "timeout": _CONNECT_TIMEOUT,
            "command_timeout": _SILENCE,
            "server_settings": {"application_name": name},
        }
    return {
        "connect_timeout": int(_CONNECT_TIMEOUT),
        "application_name": name,
        "keepalives_idle": int(_SILENCE / 2),
        "keepalives_interval": int(_SILENCE / 4),
        "keepalives_count": 2,
        "tcp_user_timeout": int(_SILENCE * 1000),
    }


def _give_up_the_silent(context: ExceptionContext) -> BaseException | None:
    # The pool's other connections are most likely silent too, so all are made anew.
    if not isinstance(context.original_exception, TimeoutError) or context.connection is None:
        return None
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = True
    return ConnectionSilent(f"PostgreSQL has not answered for {_SILENCE:g} s")


def _bound(engine: Engine, way: Way) -> None:
    """Let each transaction have the bounds, on whichever connection of the server it is."""

    # By a statement, and not while connecting: connection poolers refuse settings there.
    @event.listens_for(engine, "connect")
    def once(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        if not way.is_pooled:
            _set_bounds(connection)

    # A pooler would hand the settings of a session to others.
    @event.listens_for(engine, "begin")
    def each_time(connection: Connection) -> None:
        if way.is_pooled:
            connection.exec_driver_sql(_setting(for_transaction=True))


def _setting(*, for_transaction: bool) -> str:
    bounds = ", ".join(f"('{name}', '{value}')" for name, value in _BOUNDS.items())
    return (
        f"SELECT set_config(name, value, {str(for_transaction).lower()}) "
        f"FROM (VALUES {bounds}) AS bound (name, value) "
        "WHERE current_setting(name, true) IS NOT NULL"  # an older server lacks some of them
    )


def _set_bounds(connection: DBAPIConnection) -> None:
    with broken_off():
        cursor = connection.cursor()
        cursor.execute(_setting(for_transaction=False))
        cursor.close()
        connection.commit()
