"""What comes into an outbox and leaves it, told by comparing one look at its tables with the next.

A message that comes and leaves between two looks is not seen.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.lanes import BLOCKED
from outbox.operations.held import chosen
from outbox.operations.selection import Selection
from outbox.tables import Tables

MOST = 1000
"""The most messages, and the most held keys, that are compared: the newest ones."""


class Move(enum.StrEnum):
    """What happened to a message."""

    CAME = "came"
    """It waits to be sent."""
    LEFT = "left"
    """It waits no longer: it was delivered, or withdrawn."""
    RESTS = "rests"
    """It failed, and its key waits for the next attempt."""
    BLOCKS = "blocks"
    """It was given up, and its key waits for an operator."""
    DIED = "died"
    """It became a dead letter."""


@dataclass(frozen=True)
class Happening:
    """What happened to one message, noticed at that time."""

    at: datetime
    move: Move
    id: str
    destination: str
    type: str | None
    key: str
    reason: str | None = None


@dataclass(frozen=True)
class _Row:
    id: str
    destination: str
    type: str
    key: str


class Tail:
    """The comparison of looks at one outbox. The first look tells nothing."""

    def __init__(self, tables: Tables, selection: Selection) -> None:
        self._tables = tables
        self._selection = selection
        self._waiting: dict[int, _Row] = {}
        self._held: dict[tuple[str, int, str], tuple[str, bool]] = {}
        self._died: set[tuple[str, str]] = set()
        # A look that found as many as it compares sees older ones later, which are no news.
        self._since_seq: int | None = None
        self._since_death: datetime | None = None
        self._has_looked = False

    async def look(self, connection: AsyncConnection, now: datetime) -> Sequence[Happening]:
        """What happened since the last look, in that order: deaths, rests, what left, what came."""
        died = await self._look_for_deaths(connection, now)
        held = await self._look_for_holds(connection, now)
        dead = {(it.id, it.destination) for it in died}
        moved = await self._look_for_moves(connection, now, dead)
        self._has_looked, first = True, not self._has_looked
        return [] if first else [*died, *held, *moved]

    async def _look_for_deaths(self, connection: AsyncConnection, now: datetime) -> list[Happening]:
        dead = self._tables.outbox_dead
        rows = await connection.execute(
            select(dead)
            .where(*self._selection.of(dead, "died_at"))
            .order_by(dead.c.died_at.desc(), dead.c.id.desc(), dead.c.destination.desc())
            .limit(MOST)
        )
        found = list(rows.mappings())
        new = [
            row
            for row in found
            if (row["id"], row["destination"]) not in self._died
            and (self._since_death is None or row["died_at"] >= self._since_death)
        ]
        self._died = {(row["id"], row["destination"]) for row in found}
        self._since_death = found[-1]["died_at"] if len(found) == MOST else None
        return [
            Happening(
                now,
                Move.DIED,
                row["id"],
                row["destination"],
                row["type"],
                row["aggregateid"],
                row["reason"],
            )
            for row in reversed(new)
        ]

    async def _look_for_holds(self, connection: AsyncConnection, now: datetime) -> list[Happening]:
        held, query = self._tables.outbox_held, chosen(self._tables, self._selection)
        order = (held.c.destination, held.c.bucket, held.c.aggregateid)
        rows = list((await connection.execute(query.order_by(*order).limit(MOST))).mappings())
        before, self._held = self._held, {}
        result = []
        for row in rows:
            place = row["destination"], row["bucket"], row["aggregateid"]
            is_blocked = row["next_at"] >= BLOCKED
            self._held[place] = row["head_id"], is_blocked
            if len(before) == MOST and place > max(before):
                continue
            if before.get(place) != self._held[place]:
                move = Move.BLOCKS if is_blocked else Move.RESTS
                id, to, key = row["head_id"], row["destination"], row["aggregateid"]
                result.append(Happening(now, move, id, to, row["type"], key, row["last_error"]))
        return result

    async def _look_for_moves(
        self, connection: AsyncConnection, now: datetime, died: set[tuple[str, str]]
    ) -> list[Happening]:
        outbox = self._tables.outbox
        columns = (outbox.c.seq, *_columns(outbox))
        query = select(*columns).where(*self._selection.of(outbox, "occurred_at"))
        rows = (await connection.execute(query.order_by(outbox.c.seq.desc()).limit(MOST))).all()
        newest = {seq: _Row(*rest) for seq, *rest in reversed(rows)}
        since, self._since_seq = self._since_seq, min(newest) if len(rows) == MOST else None
        came = [
            row
            for seq, row in newest.items()
            if seq not in self._waiting and (since is None or seq > since)
        ]
        unseen = [seq for seq in self._waiting if seq not in newest]
        still = await _present(connection, outbox, unseen)
        parked = await _present(connection, self._tables.outbox_parked, unseen)
        left = [
            row
            for seq in unseen
            if seq not in still and seq not in parked
            if ((row := self._waiting[seq]).id, row.destination) not in died
        ]
        kept = {seq: row for seq, row in self._waiting.items() if seq in still or seq in parked}
        # The oldest are watched no longer where there are too many.
        self._waiting = dict(sorted({**kept, **newest}.items())[-MOST:])
        return [*_told(now, Move.LEFT, left), *_told(now, Move.CAME, came)]


def _columns(table: Table) -> Sequence[Any]:
    return table.c.id, table.c.destination, table.c.type, table.c.aggregateid


def _told(now: datetime, move: Move, rows: Iterable[_Row]) -> list[Happening]:
    return [Happening(now, move, it.id, it.destination, it.type, it.key) for it in rows]


async def _present(connection: AsyncConnection, table: Table, seqs: Sequence[int]) -> set[int]:
    if not seqs:
        return set()
    return set((await connection.scalars(select(table.c.seq).where(table.c.seq.in_(seqs)))).all())
