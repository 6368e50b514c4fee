"""Pages over HTTP: how a client asks for one, and how it is answered. `outbox.database.pages` reads
them."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from outbox.chassis.http.problems import invalid
from outbox.database.pages import DEFAULT_LIMIT, MAX_LIMIT, Wanted, read_cursor
from outbox.errors import InvalidSelection

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A part of a list, newest first."""

    items: list[T]
    next_cursor: str | None = Field(
        description="Hand it back as ?cursor= for the items after these; null on the last page"
    )


Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most")]
"""A parameter of a route that answers with a page, DEFAULT_LIMIT unless given."""
Cursor = Annotated[
    str | None, Query(description="next_cursor of the page before; leave it out to start")
]
"""A parameter of a route that answers with a page, None unless given."""


def _wanted(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Wanted:
    try:
        return Wanted(limit, None if cursor is None else read_cursor(cursor))
    except InvalidSelection:
        raise invalid(
            "query.cursor: it is not a cursor that this service gave out.",
            code="invalid-cursor",
            next_step="Take next_cursor from the page before, unchanged, or leave cursor out to "
            "start at the newest item.",
        ) from None


WantedPage = Annotated[Wanted, Depends(_wanted)]
"""The parameter of a route that answers with a page: reads `limit` and `cursor`, or answers 422."""
