"""What a node tells the others of its participants: which of them give no answer.

Only the couriers of the node that owns a run know why its command is not delivered; any node may be
asked. So the node writes it down beside its commits, for each participant and not for each run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.store.silence_store import SilenceStore
from outbox.clock import Clock
from outbox.relay.breaker import Silence

TOLD_EVERY = 5.0
"""Seconds between two looks at what is to be told."""


class Silences:
    """The silences of one node's participants, as the database was told of them last. `name` gives
    the name of the node's leases."""

    def __init__(
        self,
        engine: AsyncEngine,
        store: SilenceStore,
        silences: Callable[[], Mapping[str, Silence]],
        *,
        name: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._store = store
        self._silences = silences
        self._name = name
        self._clock = clock
        self._told: tuple[str, Mapping[str, Silence]] | None = None

    async def tell_once(self) -> float:
        """Write the silences down where they have changed. Returns the seconds until the next
        look."""
        name, silences = self._name(), self._silences()
        if (name, silences) != (self._told or (name, {})):
            async with self._engine.begin() as connection:
                await self._store.replace(
                    connection, name, silences, monotonic=self._clock.monotonic()
                )
            self._told = (name, silences)
        return TOLD_EVERY
