"""The statements with which messages enter the database, within the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, Engine, Insert, Table, insert, text

from outbox import sqlite
from outbox.adding.staging import Staged
from outbox.database.sqlalchemy_internals import level_at_connect
from outbox.errors import AutocommitRefused
from outbox.tables import Tables

ORDER_LOCKS = 4096
"""How many different locks there are for keys. Keys share them, so that a transaction with very
many messages does not fill the server's table of locks, which has room for 6,400 by default."""

_LOCK = text(
    "SELECT pg_advisory_xact_lock(:space, number) "
    "FROM unnest(CAST(:numbers AS integer[])) AS number"
)


@cache
def inserting(table: Table) -> Insert:
    """The INSERT of messages into one of the tables."""
    # Without RETURNING: no caller asks for `seq`, and reading it back would cost as much as the
    # insert.
    return insert(table).inline()


def write(
    connection: Connection, tables: Tables, messages: Sequence[Staged], *, ordered: bool
) -> None:
    """Insert the messages, in their order.

    On PostgreSQL, if `ordered`, no other transaction can then add a message with one of their
    (lane, key) until this one has ended: two that share no row would otherwise draw their numbers
    in one order and commit in the other. SQLite has one writer at a time.

    Raises AutocommitRefused where the connection commits each statement by itself.
    """
    refuse_autocommit(connection)
    if ordered and connection.dialect.name == "postgresql":
        _lock_keys(connection, tables.lock_space, messages)
    due = [row for message in messages if message.order is not None for row in message.rows]
    if due:
        connection.execute(inserting(tables.outbox), due)
    scheduled = [row for message in messages if message.order is None for row in message.rows]
    if scheduled:
        connection.execute(inserting(tables.outbox_scheduled), scheduled)


def _lock_keys(connection: Connection, space: int, messages: Sequence[Staged]) -> None:
    orders = {message.order for message in messages if message.order is not None and message.rows}
    if orders:
        # Sorted, so that two transactions with the same keys in another order do not wait for each
        # other for ever. A statement of its own, since one that inserts as well would draw its
        # numbers first.
        numbers = sorted({crc32(order.encode()) % ORDER_LOCKS for order in orders})
        connection.execute(_LOCK, {"space": space, "numbers": numbers})


def refuse_autocommit(
    bind: Connection | Engine,
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    used_by: str = "outbox.add()",
) -> None:
    """Raises AutocommitRefused where each statement commits by itself. No I/O.

    A connection is judged by its state, an engine by its options and by `options`, with which a
    connection of it will be made. Raises UnconfiguredSQLite too.
    """
    level = {**bind.get_execution_options(), **options}.get("isolation_level")
    if bind.dialect.name == "sqlite":
        # The driver itself is always in autocommit, since a configured engine sends BEGIN.
        sqlite.require(bind.engine)
        refused = level == "AUTOCOMMIT"
    elif isinstance(bind, Connection):
        driver = bind.connection.dbapi_connection
        refused = driver is not None and bind.dialect.detect_autocommit_setting(driver)
    else:
        refused = (level or level_at_connect(bind.dialect)) == "AUTOCOMMIT"
    if refused:
        raise AutocommitRefused(used_by)
