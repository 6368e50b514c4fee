"""The outbox of a service at a glance: what waits for each destination, and who sends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import destinations
from outbox.chassis.endpoints.backlog import Backlog, standing
from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.operations.results import as_json
from outbox.operations.senders import SendingProcess, senders
from outbox.tables import Tables
from outbox.transports.brokers.held.operators import HeldCount, count_held
from outbox.wire.attributes import written


@dataclass(frozen=True)
class Overview:
    """What waits for each destination, the paused ones, who sends, and what was received by a
    broker and is held. `now` is when it was read."""

    now: datetime
    backlogs: tuple[Backlog, ...]
    pauses: tuple[destinations.Pause, ...]
    senders: tuple[SendingProcess, ...]
    received: tuple[HeldCount, ...]

    def as_json(self) -> dict[str, Any]:
        """The same for programs: counts, times in RFC 3339, ages in seconds."""
        pauses = {it.destination: it for it in self.pauses}
        return {
            "destinations": [self._item(it, pauses.get(it.destination)) for it in self.backlogs],
            "senders": [as_json(it) for it in self.senders],
            "received": [as_json(it) for it in self.received],
        }

    def _item(self, backlog: Backlog, pause: destinations.Pause | None) -> dict[str, Any]:
        oldest = backlog.oldest_waiting
        age = None if oldest is None else max(0.0, (self.now - oldest).total_seconds())
        return {
            "destination": backlog.destination,
            "unsent": backlog.waiting,
            "oldest": None if oldest is None else written(oldest),
            "oldest_seconds": age,
            "scheduled": backlog.scheduled,
            "held_keys": backlog.held_keys,
            "blocked_keys": backlog.blocked_keys,
            "dead_letters": backlog.dead,
            "paused_since": None if pause is None else written(pause.since),
            "paused_reason": None if pause is None else pause.reason,
        }


async def overview(
    engine: AsyncEngine, tables: Tables, clock: Clock, name: str, known: Collection[str] = ()
) -> Overview:
    """The outbox of the service of that name as it stands: every destination that is known or has
    messages, by name."""
    async with reading(engine).connect() as connection:
        return Overview(
            now=clock.now(),
            backlogs=tuple(await standing(connection, tables, known)),
            pauses=tuple(await destinations.list_paused(connection, tables=tables)),
            senders=tuple(await senders(connection, tables, clock.now)),
            received=tuple(await count_held(connection, name, tables=tables)),
        )
