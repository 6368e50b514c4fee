"""The rows of pauses and silences: those of `outbox_held` whose bucket is PAUSED or SILENT.

They are holds of a whole destination: their key is empty, and `next_at` is the time since when.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Insert, Table, and_, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.time import DatabaseClock
from outbox.lanes import PAUSED, SILENT
from outbox.tables import Tables

_NO_MESSAGE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Noted:
    """What the table knows of a destination: the reason of its pause, and for how many seconds it
    has given no answer; None where it has no such row."""

    paused: str | None = None
    silent_for: float | None = None


def row(
    destination: str, bucket: int, since: datetime | ColumnElement[datetime], reason: str
) -> dict[str, Any]:
    """The columns of such a row."""
    return {
        "destination": destination,
        "bucket": bucket,
        "aggregateid": "",
        "head_id": _NO_MESSAGE,
        "attempts": 0,
        "next_at": since,
        "last_error": reason,
    }


def of_destination(held: Table, destination: str, *buckets: int) -> ColumnElement[bool]:
    """The rows of that destination with these buckets, without any with both."""
    chosen = buckets or (PAUSED, SILENT)
    return and_(held.c.destination == destination, held.c.bucket.in_(chosen))


def stored_once(held: Table, values: Mapping[str, Any], *, postgres: bool) -> Insert:
    """The statement that stores such a row unless it is there: another process, or an operator, may
    store it at the same time."""
    statement = postgresql.insert(held) if postgres else sqlite.insert(held)
    return statement.values(values).on_conflict_do_nothing()


class PauseRows(DatabaseClock):
    """These rows of one database. Each method is one step of the caller's transaction."""

    def __init__(self, tables: Tables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._held = tables.outbox_held

    async def read(
        self, connection: AsyncConnection, destinations: Collection[str]
    ) -> Mapping[str, Noted]:
        """What is noted of these destinations; those of which nothing is are left out."""
        held = self._held
        found: dict[str, Noted] = {}
        for name, bucket, since, reason, now in await connection.execute(
            select(
                held.c.destination, held.c.bucket, held.c.next_at, held.c.last_error, self._now
            ).where(held.c.destination.in_(destinations), held.c.bucket.in_((PAUSED, SILENT)))
        ):
            known = found.get(name, Noted())
            if bucket == PAUSED:
                found[name] = Noted(reason, known.silent_for)
            else:
                found[name] = Noted(known.paused, (now - since).total_seconds())
        return found

    async def pause(self, connection: AsyncConnection, destination: str, reason: str) -> None:
        """Pause the destination, unless it is paused."""
        await self._put(connection, row(destination, PAUSED, self._now, reason))

    async def note_silence(
        self, connection: AsyncConnection, destination: str, seconds: float, reason: str
    ) -> None:
        """Note that it has given no answer for so many seconds, unless that is noted."""
        since = self._in(timedelta(seconds=-seconds))
        await self._put(connection, row(destination, SILENT, since, reason))

    async def forget_silence(self, connection: AsyncConnection, destination: str) -> None:
        """Forget that it gave no answer."""
        held = self._held
        await connection.execute(delete(held).where(of_destination(held, destination, SILENT)))

    async def _put(self, connection: AsyncConnection, values: dict[str, Any]) -> None:
        await connection.execute(stored_once(self._held, values, postgres=self._postgres))
