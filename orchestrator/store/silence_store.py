"""The SQL of silences: what each node tells of the participants that give it no answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock
from outbox.relay.breaker import Silence


class SilenceStore(DatabaseClock):
    """The silences in one database. Each method is one step of the caller's transaction."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def replace(
        self,
        connection: AsyncConnection,
        owner: str,
        silences: Mapping[str, Silence],
        *,
        monotonic: float,
    ) -> None:
        """Let these be all that the node `owner` tells, by participant. `monotonic` is the present
        on the clock that the silences are counted on."""
        saga_silence = self._tables.saga_silence
        await connection.execute(delete(saga_silence).where(saga_silence.c.owner == owner))
        rows = [
            {
                "owner": owner,
                "destination": destination,
                "since": self._in(timedelta(seconds=it.since - monotonic)),
                "deliveries": it.deliveries,
                "reason": it.reason,
                "next_at": self._in(timedelta(seconds=it.until - monotonic)),
            }
            for destination, it in sorted(silences.items())
        ]
        if rows:
            await connection.execute(insert(saga_silence).values(rows))

    async def forget_dead(self, connection: AsyncConnection) -> None:
        """Remove what nodes told that are not among the living any more."""
        saga_silence = self._tables.saga_silence
        outbox_relay = self._tables.messaging.outbox_relay
        living = select(outbox_relay.c.owner)
        await connection.execute(delete(saga_silence).where(saga_silence.c.owner.not_in(living)))
