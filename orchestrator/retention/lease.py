"""The lease under which one process at a time removes what is old: the row of one table, which also
notes the rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.tables import SagaTables
from outbox.coordination.owners import is_surely_dead
from outbox.database.time import DatabaseClock

_LONG_AGO = timedelta(days=365)


class LostLease(Exception):
    """Another process removes what is old by now; the transaction must not be committed."""


@dataclass(frozen=True)
class Fence:
    """The lease under which one process removes what is old: its number, and for how long it holds
    from the last step."""

    epoch: int
    ttl: timedelta


class RetentionLease(DatabaseClock):
    """The lease of one installation. Each method is one step of the caller's transaction."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def hold_to(self, connection: AsyncConnection, bound: float) -> None:
        """Let no statement of the transaction take longer than `bound` seconds, and none of its
        pauses, where the database can be told so. Call it first."""
        if self._postgres:
            limit = str(int(bound * 1000))
            names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            parts = ", ".join(f"set_config('{it}', :limit, true)" for it in names)
            await connection.execute(text(f"SELECT {parts}"), {"limit": limit})

    async def claim(self, connection: AsyncConnection, owner: str, ttl: timedelta) -> Fence | None:
        """Take the lease where it is free or the caller's, or its holder is known to be dead; None
        where another one has it."""
        mine = self._tables.saga_retention
        await connection.execute(
            self._insert(mine)
            .values(only=1, epoch=0, expires_at=self._in(-_LONG_AGO))
            .on_conflict_do_nothing()
        )
        holder = await connection.scalar(select(mine.c.owner))
        gone = [owner] if holder is None or not is_surely_dead(holder) else [owner, holder]
        is_free = or_(mine.c.expires_at <= self._now, mine.c.owner.in_(gone))
        epoch = await connection.scalar(
            update(mine)
            .where(mine.c.only == 1, is_free)
            .values(owner=owner, epoch=mine.c.epoch + 1, expires_at=self._in(ttl))
            .returning(mine.c.epoch)
        )
        return None if epoch is None else Fence(epoch, ttl)

    async def fence(self, connection: AsyncConnection, fence: Fence) -> tuple[datetime, str | None]:
        """Prolong the lease, and hold its row until the transaction ends, so that no other process
        can take it meanwhile.

        Returns the database's time, and the id below which an absent run may have been removed.
        Raises LostLease.
        """
        mine = self._tables.saga_retention
        found = (
            await connection.execute(
                update(mine)
                .where(mine.c.only == 1, mine.c.epoch == fence.epoch)
                .values(expires_at=self._in(fence.ttl))
                .returning(self._now.label("now"), mine.c.below)
            )
        ).one_or_none()
        if found is None:
            raise LostLease
        return found.now, found.below

    async def give_back(self, connection: AsyncConnection, fence: Fence) -> None:
        """Let the lease expire now, if it is still held."""
        mine = self._tables.saga_retention
        await connection.execute(
            update(mine).where(mine.c.epoch == fence.epoch).values(expires_at=self._now)
        )

    async def end_round(self, connection: AsyncConnection, oldest: datetime | None) -> None:
        """Note the end of a round, and the oldest end of a run that is still there."""
        mine = self._tables.saga_retention
        await connection.execute(
            update(mine).where(mine.c.only == 1).values(round_at=self._now, oldest_at=oldest)
        )


async def standing(
    connection: AsyncConnection, tables: SagaTables
) -> tuple[datetime | None, datetime | None]:
    """When the last round ended, and the oldest end of a run that was there then."""
    mine = tables.saga_retention
    row = (await connection.execute(select(mine.c.round_at, mine.c.oldest_at))).one_or_none()
    return (None, None) if row is None else (row.round_at, row.oldest_at)
