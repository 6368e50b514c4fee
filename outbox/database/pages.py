"""Pages of lists: 50 rows unless told, at most 200, and a cursor for more.

A list stands in the order of several columns (`page`, `after`), or is a walk down the ids
(`newest`), which are UUIDv7 and so stand in the order of their making. A cursor is opaque to
clients: what the order knows of the last row that they have seen.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Row,
    Select,
    SmallInteger,
    String,
    Uuid,
    and_,
    or_,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from outbox.database.column_types import UtcDateTime
from outbox.errors import InvalidSelection
from outbox.ids import is_id
from outbox.wire import attributes as at

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list. `next_cursor` leads to the rest; None where there is none."""

    items: Sequence[T]
    next_cursor: str | None


@dataclass(frozen=True)
class Wanted:
    """Which part of a walk down the ids is asked for: at most `limit` rows with ids below
    `below`."""

    limit: int = DEFAULT_LIMIT
    below: str | None = None


async def newest(
    connection: AsyncConnection,
    query: Select[*tuple[Any, ...]],
    identifier: Column[str] | InstrumentedAttribute[str],
    wanted: Wanted,
) -> tuple[Sequence[Row[Any]], str | None]:
    """The rows of one page in one round trip, newest first, and the cursor of the next page, if
    there is one.

    `identifier` is one of the query's columns, unique, with an index that serves the order.
    """
    if wanted.below is not None:
        query = query.where(identifier < wanted.below)
    query = query.order_by(identifier.desc()).limit(wanted.limit + 1)
    shown, last = cut((await connection.execute(query)).all(), wanted.limit)
    return shown, None if last is None else cursor_after(last._mapping[identifier.key])


def cursor_after(identifier: str) -> str:
    """The cursor that goes on below this id."""
    return _as_text(uuid.UUID(identifier).bytes)


def read_cursor(cursor: str) -> str:
    """The id that the cursor of a walk stands for. Raises InvalidSelection where it is none."""
    try:
        identifier = str(uuid.UUID(bytes=_as_bytes(cursor)))
    except (ValueError, binascii.Error):
        raise _no_cursor(cursor) from None
    if cursor_after(identifier) != cursor:
        raise _no_cursor(cursor)
    return identifier


def after(cursor: str, order: Sequence[Column[Any]], *, descending: bool) -> ColumnElement[bool]:
    """The condition for rows behind the one that the cursor names, in that order. Raises
    InvalidSelection where it is no cursor for this order."""
    values = _read(cursor, order)
    # Spelt out, since SQLite's rows of values lose the types of their parts.
    ways = []
    for position, (column, value) in enumerate(zip(order, values, strict=True)):
        equal = [c == v for c, v in zip(order[:position], values[:position], strict=True)]
        ways.append(and_(*equal, column < value if descending else column > value))
    return or_(*ways)


async def page(
    database: AsyncConnection | AsyncSession,
    query: Select[Any],
    order: Sequence[Column[Any]],
    read: Callable[[RowMapping], T],
    *,
    limit: int,
    cursor: str | None,
    descending: bool = False,
) -> Page[T]:
    """The first `limit` rows of the query in that order, by which each is unique, behind the
    cursor. Raises InvalidSelection where the limit is not 1 to MAX_LIMIT, or the cursor is none of
    that order."""
    query = paged(query, order, limit=limit, cursor=cursor, descending=descending)
    return page_of((await database.execute(query)).mappings().all(), order, read, limit=limit)


def paged(
    query: Select[Any],
    order: Sequence[Column[Any]],
    *,
    limit: int,
    cursor: str | None,
    descending: bool = False,
) -> Select[Any]:
    """The query for the rows of one such page, and for one more row where there is one. Raises as
    `page` does."""
    if not 0 < limit <= MAX_LIMIT:
        raise InvalidSelection(
            f"the limit is {limit}", next_step=f"choose one between 1 and {MAX_LIMIT}"
        )
    if cursor is not None:
        query = query.where(after(cursor, order, descending=descending))
    query = query.order_by(*(column.desc() if descending else column for column in order))
    return query.limit(limit + 1)


def page_of(
    rows: Sequence[RowMapping],
    order: Sequence[Column[Any]],
    read: Callable[[RowMapping], T],
    *,
    limit: int,
) -> Page[T]:
    """The page that these rows of a query by `paged` are."""
    shown, last = cut(rows, limit)
    return Page([read(row) for row in shown], None if last is None else _write(last, order))


def cut(rows: Sequence[R], limit: int) -> tuple[Sequence[R], R | None]:
    """The rows to be shown, and the last of them where others follow: then there is one row more
    than the limit."""
    shown = rows[:limit]
    return shown, shown[-1] if len(rows) > limit else None


def _write(row: RowMapping, order: Sequence[Column[Any]]) -> str:
    return _as_text(orjson.dumps([row[column] for column in order]))


def _read(cursor: str, order: Sequence[Column[Any]]) -> list[Any]:
    try:
        values = orjson.loads(_as_bytes(cursor))
        if not isinstance(values, list) or len(values) != len(order):
            raise ValueError(cursor)
        return [_typed(value, column) for value, column in zip(values, order, strict=True)]
    except (ValueError, binascii.Error):
        raise _no_cursor(cursor) from None


def _as_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")


def _as_bytes(cursor: str) -> bytes:
    padded = cursor + "=" * (-len(cursor) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)


def _no_cursor(cursor: str) -> InvalidSelection:
    return InvalidSelection(
        f"{cursor[:50]!r} is not a cursor of this list",
        next_step="take next_cursor of the page before, or leave it out to start anew",
    )


def _typed(value: Any, column: Column[Any]) -> Any:
    """The value as the database takes it for that column. Raises ValueError where it would not."""
    match column.type, value:
        case UtcDateTime(), str():
            return at.moment(value)
        case Uuid(), str() if is_id(value):
            return value
        case String(), str() if "\0" not in value:
            return value
        case SmallInteger(), int() if type(value) is int and 0 <= value < 2**15:
            return value
        case BigInteger(), int() if type(value) is int and 0 <= value < 2**63:
            return value
        case _:
            raise ValueError(f"{value!r} is nothing for {column.name}")
