"""The keeper of leases: renews them, takes free ones up to the fair share, gives back the excess.

A relay keeps the leases of its destinations' buckets this way, and a node of the orchestrator those
of its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import Clock
from outbox.coordination.lease_store import LeaseStore
from outbox.coordination.leases import Leases, fair_share, in_excess
from outbox.coordination.owners import is_surely_dead
from outbox.database.engines import reading


class Leased(Protocol):
    """The worker that uses the leases of one name."""

    @property
    def leases(self) -> Leases:
        """The leases that it has now."""

    def lease(self, leases: Leases) -> None:
        """Replace its leases by these."""

    async def give_up(self, buckets: Sequence[int]) -> None:
        """Give these leases back as soon as no work of them is under way; perhaps none."""


class LeaseKeeper:
    """The leases of one holder, by the name that they stand under in the database.

    `name` gives the holder's name, and another one in a process that was forked off. `buckets` are
    those of every name. `gained` is called after leases were gained, and `lost` is told how many
    expired before they were renewed. A lease may be used for
    `lease - margin` seconds from before its renewal. Errors of the database pass through.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        store: LeaseStore,
        leased: Mapping[str, Leased],
        *,
        buckets: Sequence[int],
        name: Callable[[], str],
        clock: Clock,
        lease: float,
        margin: float,
        is_dead: Callable[[str], bool] = is_surely_dead,
        gained: Callable[[], None] = lambda: None,
        lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._store = store
        self._leased = dict(leased)
        self._buckets = tuple(buckets)
        self._name = name
        self._clock = clock
        self._lease = lease
        self._usable_for = lease - margin
        self._ttl = timedelta(seconds=lease)
        self._is_dead = is_dead
        self._gained = gained
        self._lost = lost
        self._announced_as: str | None = None
        self._prepared = False
        self._tended_at: float | None = None
        self._in_excess: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether it is time to tend the leases: a third of their time is over, or this process was
        forked off."""
        return self._announced_as != self._name() or self._rest() <= 0

    async def tend(self) -> float:
        """Renew the leases, and share them out with the other holders. Seconds until it is time to
        do so again."""
        began = self._clock.monotonic()
        name = self._name()
        if name != self._announced_as:
            # After a fork: the leases in this memory are those of the process before it.
            self._drop()
            self._announced_as = name
        if self._leased:
            await self._renew(name, began)
        self._tended_at = began
        for leased_as, leased in self._leased.items():
            await self._share(leased_as, leased)
        return self.pause()

    def pause(self) -> float:
        """Seconds until it is time to tend the leases, a hundredth at least."""
        return max(0.01, self._rest())

    async def leave(self) -> None:
        """Give all leases back."""
        self._drop()
        self._tended_at = None
        async with self._engine.begin() as connection:
            await self._store.leave(connection, self._name())

    def _rest(self) -> float:
        if self._tended_at is None:
            return 0.0
        return self._tended_at + self._lease / 3 - self._clock.monotonic()

    def _drop(self) -> None:
        for leased in self._leased.values():
            leased.lease(Leases())

    async def _renew(self, name: str, began: float) -> None:
        async with self._reading.connect() as connection:
            dead = [it for it in await self._store.owners(connection) if self._is_dead(it)]
        async with self._engine.begin() as connection:
            if not self._prepared:
                for leased_as in self._leased:
                    await self._store.make_leases(connection, leased_as, self._buckets)
            for owner in dead:
                await self._store.leave(connection, owner)
            await self._store.announce(connection, name, list(self._leased), self._ttl)
            held = await self._store.renew(connection, name, self._ttl)
        self._prepared = True
        until = began + self._usable_for
        for leased_as, leased in self._leased.items():
            renewed = held.get(leased_as, {})
            before = leased.leases.epochs
            self._lost(sum(1 for it, epoch in before.items() if renewed.get(it) != epoch))
            leased.lease(Leases(renewed, until))

    async def _share(self, leased_as: str, leased: Leased) -> None:
        began = self._clock.monotonic()
        count = len(self._buckets)
        async with self._engine.begin() as connection:
            holders = await self._store.relays_of(connection, leased_as, self._ttl)
            room = max(0, fair_share(holders, count) - len(leased.leases.epochs))
            gained = await self._store.claim(
                connection, self._name(), leased_as, most=room, ttl=self._ttl
            )
        if gained:
            # The older half of the leases bounds the whole: `until` stays as it was renewed.
            until = min(leased.leases.until, began + self._usable_for)
            leased.lease(Leases({**leased.leases.epochs, **gained}, until))
            self._gained()
        surplus = in_excess(leased.leases.epochs, holders, count)
        # Only the second time: a holder that has just died still counts, and what is given back for
        # its sake lies idle.
        await leased.give_up(surplus if leased_as in self._in_excess else ())
        (self._in_excess.add if surplus else self._in_excess.discard)(leased_as)
