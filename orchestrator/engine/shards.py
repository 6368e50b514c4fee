"""The shards of this node: the nodes of a database share them by leases.

The lease of a shard is also that of the outbox buckets of its runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.store.sharding import LEASED_AS, SHARDS
from outbox.clock import Clock
from outbox.coordination.lease_keeper import LeaseKeeper
from outbox.coordination.lease_store import LeaseStore
from outbox.coordination.leases import Leases
from outbox.coordination.owners import is_surely_dead
from outbox.relay.settings import RelaySettings

log = logging.getLogger(__name__)


class Shards:
    """The leases of one node. `changed(gained, lost)` is called whenever they were renewed, gained
    or lost; `lost` is told how many expired before they were renewed."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        name: Callable[[], str],
        clock: Clock,
        settings: RelaySettings,
        store: LeaseStore,
        changed: Callable[[frozenset[int], frozenset[int]], None],
        is_dead: Callable[[str], bool] = is_surely_dead,
        lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.leases = Leases()
        self._engine = engine
        self._store = store
        self._name = name
        self._clock = clock
        self._changed = changed
        self._keeper = LeaseKeeper(
            engine,
            store,
            {LEASED_AS: self},
            buckets=SHARDS,
            name=name,
            clock=clock,
            lease=settings.lease,
            margin=settings.margin,
            is_dead=is_dead,
            lost=lost,
        )

    @property
    def usable(self) -> Mapping[int, int]:
        """The shards for which work may be begun now, with their epochs."""
        return self.leases.usable(self._clock.monotonic())

    def are_complete(self) -> bool:
        """Whether every shard there is may be used now."""
        return len(self.usable) == len(SHARDS)

    def forget(self, shards: frozenset[int]) -> None:
        """Forget these shards, which turned out to be another node's."""
        epochs = {it: epoch for it, epoch in self.leases.epochs.items() if it not in shards}
        self.lease(Leases(epochs, self.leases.until))

    async def tend_once(self) -> float:
        """Renew the leases, take free ones up to the fair share, and give back the excess. Returns
        the seconds until the next time."""
        return await self._keeper.tend()

    async def leave(self) -> None:
        """Give all shards back."""
        await self._keeper.leave()

    async def give_up(self, buckets: Sequence[int]) -> None:
        """Give these shards back at once."""
        if not buckets:
            return
        self.forget(frozenset(buckets))
        async with self._engine.begin() as connection:
            await self._store.give_back(connection, self._name(), LEASED_AS, sorted(buckets))

    def lease(self, leases: Leases) -> None:
        """Replace the node's shards by these."""
        before, after = self.leases.epochs, leases.epochs
        gained = frozenset(it for it, epoch in after.items() if before.get(it) != epoch)
        lost = frozenset(before) - frozenset(after)
        self.leases = leases
        if gained or lost:
            log.info("shards: %d, gained %s, lost %s", len(after), sorted(gained), sorted(lost))
        self._changed(gained, lost)
