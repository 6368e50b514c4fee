"""Cursor pages: `{items, next_cursor}`, newest first, 50 items unless told, at most 200.

A page is a walk down the ids, which are UUIDv7 and so stand in the order of their making. The
cursor is opaque to clients: the last id that they have seen.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Column, Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from outbox.chassis.http.problems import HttpProblem, invalid

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A part of a list, newest first."""

    items: list[T]
    next_cursor: str | None = Field(
        description="Hand it back as ?cursor= for the items after these; null on the last page"
    )


@dataclass(frozen=True)
class Wanted:
    """Which part of the list a client asks for: at most `limit` items with ids below `below`."""

    limit: int = DEFAULT_LIMIT
    below: str | None = None


def cursor_after(identifier: str) -> str:
    """The cursor that goes on below this id."""
    return base64.urlsafe_b64encode(uuid.UUID(identifier).bytes).decode("ascii").rstrip("=")


def read_cursor(cursor: str) -> str:
    """The id that the cursor stands for. Raises HttpProblem (422) where it is not one of ours."""
    try:
        if len(cursor) != 22:
            raise ValueError(cursor)
        identifier = str(uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "==")))
        if cursor_after(identifier) != cursor:
            raise ValueError(cursor)
    except (ValueError, binascii.Error):
        raise _bad_cursor() from None
    return identifier


def _bad_cursor() -> HttpProblem:
    return invalid(
        "query.cursor: it is not a cursor that this service gave out.",
        code="invalid-cursor",
        next_step="Take next_cursor from the page before, unchanged, or leave cursor out to start "
        "at the newest item.",
    )


def _wanted(
    limit: Annotated[
        int, Query(ge=1, le=MAX_LIMIT, description="How many items at most")
    ] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(description="next_cursor of the page before; leave it out to start")
    ] = None,
) -> Wanted:
    return Wanted(limit, None if cursor is None else read_cursor(cursor))


WantedPage = Annotated[Wanted, Depends(_wanted)]
"""The parameter of a route that answers with a page: reads `limit` and `cursor`, or answers 422."""


async def fetch(
    connection: AsyncConnection,
    query: Select[*tuple[Any, ...]],
    identifier: Column[str] | InstrumentedAttribute[str],
    wanted: Wanted,
) -> tuple[Sequence[Row[Any]], str | None]:
    """The rows of one page in one round trip, and the cursor of the next page, if there is one.

    `identifier` is one of the query's columns, unique, with an index that serves the order.
    """
    if wanted.below is not None:
        query = query.where(identifier < wanted.below)
    # One row more than asked for tells whether there is another page.
    rows = (
        await connection.execute(query.order_by(identifier.desc()).limit(wanted.limit + 1))
    ).all()
    if len(rows) <= wanted.limit:
        return rows, None
    rows = rows[: wanted.limit]
    return rows, cursor_after(rows[-1]._mapping[identifier.key])
