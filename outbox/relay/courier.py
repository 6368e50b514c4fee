"""The courier of one destination: it fetches, sends and settles messages, round after round."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import Clock
from outbox.coordination.given_back import GivenBack
from outbox.coordination.leases import Leases
from outbox.crashpoints import crashpoint
from outbox.database.engines import reading
from outbox.relay.condition import Condition
from outbox.relay.fetcher import NOTHING, Fetcher, Taken
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Fetched, Unreadable
from outbox.relay.ports import RelayPorts, ReplySink, Settlement
from outbox.relay.sender import Round, Sender
from outbox.relay.settings import RelaySettings
from outbox.relay.settler import Settler, Written
from outbox.retry import OnExhaustion
from outbox.transports.base import Transport

_TRIALS = 50
_SIDE_BY_SIDE = 0.5
"""Seconds after which rounds side by side come to their end, so that a relay can stop."""


class Courier:
    """The courier of one destination, or of a lane of it. Its relay or node tells it the leases.
    `moved` is called after each delivery.

    With a memory, several tasks may call `run_once`, and their rounds go on side by side: a key is
    in one of them at most, and one of them at most has messages from the table.

    Without a memory one task at a time calls `run_once` or `step`. While much waits, a step makes
    two rounds side by side, each with half of what one may have: a bucket is in one of them at
    most, from before it is read until its messages are settled.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        destination: str,
        transport: Transport,
        condition: Condition,
        *,
        name: Callable[[], str],
        clock: Clock,
        settings: RelaySettings,
        sink: ReplySink | None = None,
        settlement: Settlement | None = None,
        memory: MemoryQueue | None = None,
        ports: RelayPorts,
        moved: Callable[[], None] = lambda: None,
        chance: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._store = ports.messages
        self._holds = ports.holds
        self._lease_store = ports.leases
        self._destination = destination
        self._condition = condition
        self._name = name
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self._has_memory = memory is not None
        self._sender = Sender(
            destination,
            transport,
            condition,
            clock=clock,
            settings=settings,
            usable=self._usable,
            chance=chance,
            within=ports.within,
            gather=ports.gather,
            # What gathers meanwhile goes into the next request, not into several at once.
            fills=memory is not None,
            moved=moved,
        )
        self._settler = Settler(
            engine,
            self._store,
            self._holds,
            destination,
            settings=settings,
            sink=sink,
            settlement=settlement,
        )
        self._fetcher = Fetcher(
            engine,
            destination,
            ports=ports,
            clock=clock,
            settings=settings,
            settled=self._settler.settled,
            memory=memory,
        )
        self._leases = Leases()
        self._surplus: frozenset[int] = frozenset()
        self._given_back = GivenBack()
        self._busy: set[tuple[int, str]] = set()  # the keys of all rounds under way
        self._under_way: list[int] = []  # how many messages each of them has
        self._in_rounds: set[int] = set()  # without a memory, the buckets that they have
        self._is_reading = False

    # For the relay

    @property
    def leases(self) -> Leases:
        """The buckets that it may send from."""
        return self._leases

    def lease(self, leases: Leases) -> None:
        """Replace its buckets by these."""
        leases = self._given_back.missing_in(leases)
        before, self._leases = self._leases.epochs, leases
        if before == leases.epochs:
            return  # only their end has moved
        gained = [b for b, epoch in leases.epochs.items() if before.get(b) != epoch]
        if gained:
            self._fetcher.keys_may_rest = True
        lost = [b for b in before if b not in leases.epochs]
        self.distrust([*gained, *lost])

    def distrust(self, buckets: Iterable[int]) -> None:
        """Read these buckets from the table again, from its beginning."""
        self._fetcher.distrust(buckets)

    async def give_up(self, buckets: Sequence[int]) -> None:
        """Give these leases back before the next round, when no message of theirs is under way."""
        self._surplus = frozenset(buckets)

    @property
    def is_blocked(self) -> bool:
        """Whether the destination gives no answer at present."""
        return self._condition.is_blocked

    async def step(self) -> float:
        """One round, or more while much waits, and the seconds to wait before the next."""
        if self._has_memory or not self._fetcher.has_backlog(self._usable()):
            return 0.0 if await self.run_once() else await self.pause()
        # While one of them waits for the database or the destination, the other one works.
        rounds = (self._half_rounds(), self._half_rounds())
        results = await asyncio.gather(*rounds, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return 0.0 if any(results) else await self.pause()

    async def _half_rounds(self) -> int:
        """Rounds of half the size, for a while; returns how many were settled or buried."""
        total, end = 0, self._clock.monotonic() + _SIDE_BY_SIDE
        while settled := await self._run_once(half=True):
            total += settled
            if self._clock.monotonic() >= end or not self._fetcher.has_backlog(self._usable()):
                break
        return total

    async def pause(self) -> float:
        """Seconds to wait after a round that settled nothing, if no bell rings."""
        if blocked := self._sender.blocked_for():
            return min(blocked, self._settings.poll)
        usable = self._usable()
        if not usable or not self._fetcher.keys_may_rest or self._is_reading:
            return self._settings.poll
        async with self._reading.connect() as connection:
            due = await self._holds.next_due(connection, self._destination, list(usable))
        return self._settings.poll if due is None else min(due, self._settings.poll)

    # A round

    async def run_once(self) -> int:
        """Make one round; returns how many messages were settled or buried. Database errors pass
        through: then nothing is settled, and delivered messages will be delivered again."""
        return await self._run_once(half=False)

    async def _run_once(self, *, half: bool) -> int:
        await self._return_surplus()
        if not self._usable() or self._sender.blocked_for():
            return 0
        async with self._condition.turn() as alone:
            if self._has_memory:
                return await self._go_round(self._usable(), alone)
            epochs = _free(self._usable(), self._in_rounds, self._fetcher.full if half else ())
            self._in_rounds |= epochs.keys()
            self._sender.width = max(1, self._settings.width // 2) if half else self._settings.width
            try:
                return await self._go_round(epochs, alone, half=half)
            finally:
                self._in_rounds -= epochs.keys()

    async def _go_round(self, epochs: Mapping[int, int], alone: bool, *, half: bool = False) -> int:
        if not epochs or self._sender.blocked_for() or not self._is_worth_a_round(epochs):
            return 0
        fetcher = self._fetcher
        reads = not (self._has_memory and self._is_reading)
        self._is_reading = True
        try:
            trials = NOTHING
            if reads and fetcher.keys_may_rest:
                trials = await self._begin_trials(epochs)
            taken = await fetcher.take(epochs, self._busy, reads=reads, half=half)
            left_out = taken.left_out.keys()
            broken = (*trials.unreadable, *taken.fetched.unreadable)
            if reads and not (trials.messages or taken.fetched.messages or broken):
                fetcher.sent(taken, Round())
                taken = taken.from_memory()
                reads = self._is_reading = False
            if trials.messages or taken.messages or broken:
                return await self._carry(epochs, trials, taken, broken, alone)
        finally:
            if reads:
                self._is_reading = False
        if left_out and left_out.isdisjoint(bucket for bucket, _ in self._busy):
            # The round that had them has ended meanwhile: no other one looks for them at once.
            return await self._go_round(self._usable(), alone, half=half)
        return 0

    def _is_worth_a_round(self, epochs: Mapping[int, int]) -> bool:
        """Whether to go a round now. While others are under way messages gather for it: as many as
        the largest of those has, so that requests grow with the load."""
        if not self._has_memory or not self._under_way:
            return True
        if not self._is_reading and self._fetcher.has_unread(epochs):
            return True
        return self._fetcher.offered >= max(self._under_way)

    async def _carry(
        self,
        epochs: Mapping[int, int],
        trials: Fetched,
        taken: Taken,
        broken: Sequence[Unreadable],
        alone: bool,
    ) -> int:
        messages = [*trials.messages, *taken.messages]
        keys, count = {message.key for message in messages}, len(messages)
        self._busy |= keys
        self._under_way.append(count)
        try:
            written = await self._send(epochs, trials, taken, broken, alone)
        except BaseException:
            # Only the table knows what became of these. Those from memory are not there any more,
            # and the next of their keys must not overtake them.
            self._fetcher.distrust({message.bucket for message in messages})
            raise
        finally:
            self._busy -= keys
            self._under_way.remove(count)
        return written.settled + written.buried

    async def _send(
        self,
        epochs: Mapping[int, int],
        trials: Fetched,
        taken: Taken,
        broken: Sequence[Unreadable],
        alone: bool,
    ) -> Written:
        fetcher = self._fetcher
        messages = [*trials.messages, *taken.messages]
        crashpoint("relay: after fetch, before deliver")
        waiting = _blocked_by(broken, self._settings.on_exhaustion)
        result = await self._sender.send(
            trials.messages, taken.messages, alone=alone, waiting=waiting
        )
        crashpoint("relay: after deliver, before settle")
        written = await self._settler.write(epochs, result, broken)
        crashpoint("relay: after settle")
        fetcher.sent(taken, result)
        fetcher.start_over(written.freed)
        fetcher.forget_undelivered(messages, result)
        if written.held:
            fetcher.keys_may_rest = True
        return written

    def _usable(self) -> Mapping[int, int]:
        return self._leases.usable(self._clock.monotonic())

    async def _return_surplus(self) -> None:
        surplus = self._surplus - self._in_rounds
        if not surplus:
            return
        self._surplus -= surplus
        with self._given_back.giving(self._leases, surplus) as self._leases:
            async with self._engine.begin() as connection:
                await self._lease_store.give_back(
                    connection, self._name(), self._destination, sorted(surplus)
                )

    async def _begin_trials(self, epochs: Mapping[int, int]) -> Fetched:
        """The first messages of keys whose rest is over, with this attempt already counted."""
        destination, buckets = self._destination, list(epochs)
        async with self._reading.connect() as connection:
            due = await self._holds.due(connection, destination, buckets, _TRIALS)
            if not due:
                await self._fetcher.look_for_resting_keys(connection, self._leases.epochs)
                return NOTHING
        policy = self._settings.retry
        async with self._engine.begin() as connection:
            await self._store.limit_idleness(connection, self._settings.lease / 4)
            wanted = {key.bucket: epochs[key.bucket] for key in due}
            ours = await self._store.fence(connection, destination, wanted)
            due = [key for key in due if key.bucket in ours and key.whole not in self._busy]
            if not due:
                return NOTHING
            pauses = [policy.delay(key.attempts + 1, self._chance()) for key in due]
            await self._holds.begin_trials(
                connection,
                destination,
                [(key, pause or policy.ceiling) for key, pause in zip(due, pauses, strict=True)],
            )
            found = await self._holds.fetch(connection, destination, due)
            present = {message.key for message in found.messages}
            present |= {(row.bucket, row.key) for row in found.unreadable}
            gone = [(key.bucket, key.key) for key in due if (key.bucket, key.key) not in present]
            if gone:
                await self._holds.free(connection, destination, gone)
        self._fetcher.start_over({key.bucket for key in due})
        return found


def _free(
    usable: Mapping[int, int], in_rounds: Set[int], full: Collection[int]
) -> Mapping[int, int]:
    """The buckets that no other round has, with their epochs; the first round leaves every second
    one of the `full` ones to the other."""
    left = set(in_rounds) or set(sorted(usable.keys() & set(full))[1::2])
    return {bucket: epoch for bucket, epoch in usable.items() if bucket not in left}


def _blocked_by(broken: Sequence[Unreadable], policy: OnExhaustion) -> frozenset[tuple[int, str]]:
    """The keys that these rows block under that policy."""
    if policy is not OnExhaustion.BLOCK_KEY:
        return frozenset()
    return frozenset((row.bucket, row.key) for row in broken)
