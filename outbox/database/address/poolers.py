"""A pooler before the server, such as PgBouncer, that hands its connections from transaction to
transaction: what one transaction leaves on a connection, such as a prepared statement or a setting,
the next one does not find."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.address.broken import broken_off
from outbox.database.sqlalchemy_internals import prepares
from outbox.database.troubles import is_said_by

log = logging.getLogger("outbox.database")

_UNPREPARED: Mapping[str, Mapping[str, Any]] = {
    "asyncpg": {"statement_cache_size": 0, "prepared_statement_cache_size": 0},
    "psycopg": {"prepare_threshold": None},
}
_BACKEND = "SELECT pg_backend_pid()"
_BY_STATEMENT = "statement pooling mode"
"""What PgBouncer says to a transaction, and ends the connection."""

BY_TRANSACTION = (
    "let the pooler hand its connections from transaction to transaction (PgBouncer: "
    "pool_mode = transaction), or give the address of the server itself"
)
"""What is to be done where a pooler hands them from statement to statement."""


def unprepared(driver: str) -> dict[str, Any]:
    """The `connect_args` with which the driver prepares no statement that outlives its
    transaction; empty for one that never does."""
    return dict(_UNPREPARED.get(driver, {}))


class Way:
    """How an engine connects: it finds out with its first connection whether a pooler is there."""

    def __init__(self) -> None:
        self.is_pooled: bool | None = None
        """None before the first connection."""

    def connect(
        self, dialect: Dialect, _record: object, arguments: Any, options: dict[str, Any]
    ) -> DBAPIConnection | None:
        """Listens to `do_connect`, as the last that does."""
        if self.is_pooled is None:
            connection: DBAPIConnection = dialect.connect(*arguments, **options)
            try:
                with broken_off():
                    self.is_pooled = is_pooled(dialect.driver, connection)
            except BaseException:
                dialect.do_terminate(connection)
                raise
            if not self.is_pooled:
                return connection
            dialect.do_close(connection)
        if self.is_pooled:
            options.update(unprepared(dialect.driver))
        return None


def is_pooled(driver: str, connection: DBAPIConnection) -> bool:
    """Whether a pooler is at the other end. It tells its clients a process id of its own making, in
    place of the server's, which changes. Asks the server, in a transaction."""
    # The probe is no named statement either: another client's may have the same name.
    if driver == "asyncpg":
        return bool(cast(Any, connection).run_async(_told_by_asyncpg))
    if driver != "psycopg":
        return False
    told = getattr(connection, "driver_connection", connection).info.backend_pid
    cursor = connection.cursor()
    cursor.execute(_BACKEND)
    ((pid,),) = cursor.fetchall()
    cursor.close()
    connection.rollback()
    return bool(told != pid)


async def _told_by_asyncpg(connection: Any) -> bool:
    async with connection.transaction():
        statement = await connection.prepare(_BACKEND, name="")
        return bool(connection.get_server_pid() != await statement.fetchval())


def has_no_transactions(error: BaseException) -> bool:
    """Whether it came because the pooler at the other end hands its connections from statement to
    statement."""
    return is_said_by(_BY_STATEMENT, error)


def before(connection: Connection) -> bool:
    """Whether a pooler is before the server of this connection; False for a driver that cannot
    tell."""
    dbapi = connection.connection.dbapi_connection
    return dbapi is not None and is_pooled(connection.dialect.driver, dbapi)


def lacking(connection: Connection) -> str | None:
    """The `connect_args` that the engine lacks for the pooler before its server, as one writes
    them; None where there is no pooler, or nothing is lacking."""
    driver, dbapi = connection.dialect.driver, connection.connection.dbapi_connection
    if dbapi is None or not prepares(driver, dbapi) or not is_pooled(driver, dbapi):
        return None
    return f"connect_args={unprepared(driver)}"


async def lacking_of(engine: AsyncEngine | Engine) -> str | None:
    """The same with a connection of its own."""
    if engine.dialect.driver not in _UNPREPARED:
        return None
    if isinstance(engine, AsyncEngine):
        async with engine.connect() as connection:
            return await connection.run_sync(lacking)

    def ask() -> str | None:
        with engine.connect() as connection:
            return lacking(connection)

    return await asyncio.to_thread(ask)


async def warn_of_pooler(engine: AsyncEngine | Engine, service: str) -> None:
    """Log a warning where a pooler is before the server, and the engine is not made for one.

    It is no error: the pooler may keep a connection for each client, or know prepared statements.
    """
    arguments = await lacking_of(engine)
    if arguments is not None:
        log.warning(
            "a pooler is before the database of %s; where it hands its connections from "
            "transaction to transaction, statements fail until the engine is made with "
            "create_engine(..., %s)",
            service,
            arguments,
        )
