"""The statements with which messages enter the database, within the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, Engine, Insert, Integer, Table, bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import ARRAY

from outbox import sqlite
from outbox.adding.staging import Row, Staged
from outbox.database.column_types import PLACE, given
from outbox.database.sqlalchemy_internals import level_at_connect
from outbox.errors import AutocommitRefused
from outbox.tables import Tables

ORDER_LOCKS = 4096
"""How many different locks there are for keys. Keys share them, so that a transaction with very
many messages does not fill the server's table of locks, which has room for 6,400 by default."""


@cache
def inserting(table: Table) -> Insert:
    """The INSERT of messages into one of the tables."""
    # Without RETURNING: no caller asks for `seq`, and reading it back would cost as much as the
    # insert.
    return insert(table).inline()


@cache
def _inserting_in_order(outbox: Table) -> Insert:
    """The same for PostgreSQL, from arrays, once the locks of the keys are held."""
    number = func.unnest(bindparam("locks", type_=ARRAY(Integer))).column_valued("number")
    locks = select(func.pg_advisory_xact_lock(bindparam("space", type_=Integer), number))
    held = select(func.count().label("locks")).select_from(locks.cte("locks")).cte("held")
    names = [it.name for it in outbox.columns if it.server_default is None]
    rows = given({name: outbox.columns[name].type for name in names})
    # There is no row before there is a count of all the locks, and no number before there is a row.
    in_order = select(*(rows.c[name] for name in names)).join_from(rows, held, held.c.locks > 0)
    return insert(outbox).from_select(names, in_order.order_by(rows.c[PLACE]))


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
    due = [row for message in messages if message.order is not None for row in message.rows]
    if due and ordered and connection.dialect.name == "postgresql":
        _write_in_order(connection, tables, messages, due)
    elif due:
        connection.execute(inserting(tables.outbox), due)
    scheduled = [row for message in messages if message.order is None for row in message.rows]
    if scheduled:
        connection.execute(inserting(tables.outbox_scheduled), scheduled)


def _write_in_order(
    connection: Connection, tables: Tables, messages: Sequence[Staged], rows: Sequence[Row]
) -> None:
    orders = {message.order for message in messages if message.order is not None and message.rows}
    parameters: dict[str, Any] = {f"{name}s": [row[name] for row in rows] for name in rows[0]}
    parameters["space"] = tables.lock_space
    # Sorted, so that two transactions with the same keys in another order do not wait for each
    # other for ever.
    parameters["locks"] = sorted({crc32(order.encode()) % ORDER_LOCKS for order in orders})
    connection.execute(_inserting_in_order(tables.outbox), parameters)


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
