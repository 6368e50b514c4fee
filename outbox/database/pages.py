"""Pages of lists that are ordered by several columns: at most 200 rows, and a cursor for more."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    SmallInteger,
    String,
    Uuid,
    and_,
    or_,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.errors import InvalidSelection
from outbox.ids import is_id
from outbox.tables import UtcDateTime
from outbox.wire import attributes as at

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list. `next_cursor` leads to the rest; None where there is none."""

    items: Sequence[T]
    next_cursor: str | None


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
    limit: int,
    read: Callable[[RowMapping], T],
) -> Page[T]:
    """The first `limit` rows of the query, which is in that order and unique by it. Raises
    InvalidSelection where the limit is not 1 to MAX_LIMIT."""
    if not 0 < limit <= MAX_LIMIT:
        raise InvalidSelection(
            f"the limit is {limit}", next_step=f"choose one between 1 and {MAX_LIMIT}"
        )
    # One row more than asked for tells whether there is another page.
    rows = (await database.execute(query.limit(limit + 1))).mappings().all()
    shown = rows[:limit]
    more = len(rows) > limit
    return Page([read(row) for row in shown], _write(shown[-1], order) if more else None)


def _write(row: RowMapping, order: Sequence[Column[Any]]) -> str:
    values = orjson.dumps([row[column] for column in order])
    return base64.urlsafe_b64encode(values).decode("ascii").rstrip("=")


def _read(cursor: str, order: Sequence[Column[Any]]) -> list[Any]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(order):
            raise ValueError(cursor)
        return [_typed(value, column) for value, column in zip(values, order, strict=True)]
    except (ValueError, binascii.Error):
        raise InvalidSelection(
            f"{cursor[:50]!r} is not a cursor of this list",
            next_step="take next_cursor of the page before, or leave it out to start anew",
        ) from None


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
        case _:
            raise ValueError(f"{value!r} is nothing for {column.name}")
