"""Which runs are this node's: the shards are shared out by leases among the nodes of a database.

The lease of a shard is also that of the outbox buckets of its runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.store.sharding import LEASED_AS, SHARDS
from outbox.clock import Clock
from outbox.coordination.lease_store import LeaseStore
from outbox.coordination.leases import Leases, fair_share, in_excess
from outbox.coordination.owners import is_surely_dead
from outbox.database.engines import reading
from outbox.relay.settings import RelaySettings

log = logging.getLogger(__name__)


class Shards:
    """The leases of one node. `changed(gained, lost)` is told whenever they were renewed, gained or
    lost."""

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
    ) -> None:
        self.leases = Leases()
        self._engine = engine
        self._reading = reading(engine)
        self._store = store
        self._name = name
        self._announced_as: str | None = None
        self._clock = clock
        self._settings = settings
        self._changed = changed
        self._is_dead = is_dead
        self._ttl = timedelta(seconds=settings.lease)
        self._prepared = False
        self._is_in_excess = False
        self._tended_at: float | None = None

    @property
    def usable(self) -> Mapping[int, int]:
        """The shards that something may be begun for now, with their epochs."""
        return self.leases.usable(self._clock.monotonic())

    def forget(self, shards: frozenset[int]) -> None:
        """These turned out to be somebody else's."""
        epochs = {it: epoch for it, epoch in self.leases.epochs.items() if it not in shards}
        self._have(Leases(epochs, self.leases.until))

    async def tend_once(self) -> float:
        """Renew the leases, take what is free up to the fair share, and give back what is more.
        Seconds until it is time to do so again."""
        began = self._clock.monotonic()
        name = self._name()
        if name != self._announced_as:
            # After a fork: the leases in this memory are those of the process before it.
            self._have(Leases())
            self._announced_as = name
        async with self._reading.connect() as connection:
            dead = [it for it in await self._store.owners(connection) if self._is_dead(it)]
        async with self._engine.begin() as connection:
            if not self._prepared:
                await self._store.make_leases(connection, LEASED_AS, SHARDS)
            for owner in dead:
                await self._store.leave(connection, owner)
            await self._store.announce(connection, name, [LEASED_AS], self._ttl)
            held = await self._store.renew(connection, name, self._ttl)
        self._prepared = True
        until = began + self._settings.lease - self._settings.margin
        self._have(Leases(held.get(LEASED_AS, {}), until))
        await self._share(until)
        return max(0.01, began + self._settings.lease / 3 - self._clock.monotonic())

    async def leave(self) -> None:
        """Give all back."""
        self._have(Leases())
        async with self._engine.begin() as connection:
            await self._store.leave(connection, self._name())

    async def _share(self, until: float) -> None:
        async with self._engine.begin() as connection:
            nodes = await self._store.relays_of(connection, LEASED_AS, self._ttl)
            room = max(0, fair_share(nodes, len(SHARDS)) - len(self.leases.epochs))
            gained = await self._store.claim(
                connection, self._name(), LEASED_AS, most=room, ttl=self._ttl
            )
        if gained:
            self._have(Leases({**self.leases.epochs, **gained}, until))
        surplus = frozenset(in_excess(self.leases.epochs, nodes, len(SHARDS)))
        # Only the second time: a node that has just died still counts.
        if surplus and self._is_in_excess:
            self.forget(surplus)
            async with self._engine.begin() as connection:
                await self._store.give_back(connection, self._name(), LEASED_AS, sorted(surplus))
        self._is_in_excess = bool(surplus)

    def _have(self, leases: Leases) -> None:
        before, after = self.leases.epochs, leases.epochs
        gained = frozenset(it for it, epoch in after.items() if before.get(it) != epoch)
        lost = frozenset(before) - frozenset(after)
        self.leases = leases
        if gained or lost:
            log.info("shards: %d, gained %s, lost %s", len(after), sorted(gained), sorted(lost))
        self._changed(gained, lost)
