"""The SQL of silences: what each node tells of the participants that give it no answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.tables import saga_silence
from outbox.database.time import DatabaseClock
from outbox.relay.breaker import Silence
from outbox.tables import outbox_relay


class SilenceStore(DatabaseClock):
    """The silences in one database. Each method is one step of the caller's transaction."""

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
        living = select(outbox_relay.c.owner)
        await connection.execute(delete(saga_silence).where(saga_silence.c.owner.not_in(living)))
