"""The SQL about dead letters that are old. Each method is one step of the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Row, Table, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.archive.lines import letter_key, letter_of
from orchestrator.retention.pace import within
from orchestrator.tables import SagaTables

Place = tuple[datetime, str, str]
"""Where a dead letter stands in their order: when it was given up, its id, and its destination."""


class LetterStore:
    """The dead letters of one installation."""

    def __init__(self, tables: SagaTables) -> None:
        self._tables = tables

    async def old_letters(
        self,
        connection: AsyncConnection,
        before: datetime,
        after: Place | None,
        most: int,
        most_bytes: int,
    ) -> Sequence[Row[Any]]:
        """The dead letters that were given up before that, the oldest first; those behind
        `after`. Up to so many and, about, so many bytes; one at least, if there are
        any."""
        letter = self._tables.messaging.outbox_dead
        size = func.length(letter.c.payload) + func.length(letter.c.headers)
        statement = (
            select(letter.c.id, letter.c.destination, size.label("size"))
            .where(letter.c.died_at < before)
            .order_by(*_order(letter))
            .limit(most)
        )
        if after is not None:
            at, id, destination = after
            is_behind = tuple_(letter.c.id, letter.c.destination) > (id, destination)
            is_later = (letter.c.died_at > at) | ((letter.c.died_at == at) & is_behind)
            statement = statement.where(letter.c.died_at >= at, is_later)
        page = within(await connection.execute(statement), most_bytes)
        keys = [(row.id, row.destination) for row in page]
        if not keys:
            return []
        wanted = select(letter).where(tuple_(letter.c.id, letter.c.destination).in_(keys))
        return (await connection.execute(wanted.order_by(*_order(letter)))).all()

    async def staying(
        self, connection: AsyncConnection, keys: Collection[str], before: datetime | None
    ) -> frozenset[str]:
        """Those of these dead letters that are there, and were not given up before that; None lets
        all stay."""
        letter = self._tables.messaging.outbox_dead
        wanted = [letter_of(it) for it in sorted(keys)]
        statement = select(letter.c.id, letter.c.destination).where(
            tuple_(letter.c.id, letter.c.destination).in_(wanted)
        )
        if before is not None:
            statement = statement.where(letter.c.died_at >= before)
        there = await connection.execute(statement)
        return frozenset(letter_key(row.id, row.destination) for row in there)

    async def living(self, connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
        """Those of these runs that have not ended."""
        saga = self._tables.saga
        statement = select(saga.c.id).where(saga.c.id.in_(sorted(ids)), saga.c.ended_at.is_(None))
        return frozenset((await connection.scalars(statement)).all())

    async def remove_letters(
        self, connection: AsyncConnection, keys: Collection[str], before: datetime
    ) -> frozenset[str]:
        """Delete those of these dead letters that were given up before that. Returns them."""
        letter = self._tables.messaging.outbox_dead
        wanted = [letter_of(it) for it in sorted(keys)]
        gone = await connection.execute(
            delete(letter)
            .where(tuple_(letter.c.id, letter.c.destination).in_(wanted))
            # One that was sent again, and given up again, is a new one.
            .where(letter.c.died_at < before)
            .returning(letter.c.id, letter.c.destination)
        )
        return frozenset(letter_key(row.id, row.destination) for row in gone)


def place_of(letter: Row[Any]) -> Place:
    """Where that dead letter stands."""
    return letter.died_at, letter.id, letter.destination


def _order(letter: Table) -> tuple[Column[Any], ...]:
    return letter.c.died_at, letter.c.id, letter.c.destination
