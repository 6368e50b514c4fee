"""The courier of one destination: it fetches, sends and settles messages, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import Clock
from outbox.coordination.leases import Leases
from outbox.crashpoints import crashpoint
from outbox.database.engines import reading
from outbox.relay.breaker import Silence
from outbox.relay.fetcher import NOTHING, Fetcher, Taken
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Fetched, Unreadable
from outbox.relay.ports import RelayPorts, ReplySink, Settlement
from outbox.relay.round import Round
from outbox.relay.sender import Sender
from outbox.relay.settings import RelaySettings
from outbox.relay.settler import Settler, Written
from outbox.transports.base import Transport

_TRIALS = 50


@dataclass
class CourierStats:
    """The counts of one courier since the process started: `unanswered` of requests, the others of
    messages."""

    settled: int = 0
    held: int = 0
    buried: int = 0
    unanswered: int = 0


class Courier:
    """The courier of one destination. Its relay tells it the leases; one task at a time calls
    `run_once`. `moved` is called after each delivery."""

    def __init__(
        self,
        engine: AsyncEngine,
        destination: str,
        transport: Transport,
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
        self._name = name
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self._sender = Sender(
            destination,
            transport,
            clock=clock,
            settings=settings,
            usable=self._usable,
            chance=chance,
            within=ports.within,
            gather=ports.gather,
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
        self._stats = CourierStats()
        self._leases = Leases()
        self._surplus: frozenset[int] = frozenset()

    # For the relay

    @property
    def leases(self) -> Leases:
        """The buckets that it may send from."""
        return self._leases

    def lease(self, leases: Leases) -> None:
        """Replace its buckets by these."""
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
    def stats(self) -> CourierStats:
        """Its counts so far."""
        self._stats.unanswered = self._sender.unanswered
        return self._stats

    @property
    def is_blocked(self) -> bool:
        """Whether the destination gives no answer at present."""
        return self._sender.is_blocked

    @property
    def silence(self) -> Silence | None:
        """The silence of the destination, in seconds of the clock's monotonic time; None where it
        answers."""
        return self._sender.silence

    async def step(self) -> float:
        """One round, and the seconds to wait before the next."""
        return 0.0 if await self.run_once() else await self.pause()

    async def pause(self) -> float:
        """Seconds to wait after a round that settled nothing, if no bell rings."""
        if blocked := self._sender.blocked_for():
            return min(blocked, self._settings.poll)
        usable = self._usable()
        if not usable or not self._fetcher.keys_may_rest:
            return self._settings.poll
        async with self._reading.connect() as connection:
            due = await self._holds.next_due(connection, self._destination, list(usable))
        return self._settings.poll if due is None else min(due, self._settings.poll)

    # A round

    async def run_once(self) -> int:
        """Make one round; returns how many messages were settled or buried. Database errors pass
        through: then nothing is settled, and delivered messages will be delivered again."""
        await self._return_surplus()
        epochs = self._usable()
        if not epochs or self._sender.blocked_for():
            return 0
        fetcher = self._fetcher
        trials = await self._begin_trials(epochs) if fetcher.keys_may_rest else NOTHING
        taken = await fetcher.take(epochs)
        messages = [*trials.messages, *taken.messages]
        broken = (*trials.unreadable, *taken.fetched.unreadable)
        if not (messages or broken):
            fetcher.sent(taken, Round())
            return 0
        try:
            written = await self._send(epochs, trials, taken, broken)
        except BaseException:
            # Only the table knows what became of these. Those from memory are not there any more,
            # and the next of their keys must not overtake them.
            fetcher.distrust({message.bucket for message in messages})
            raise
        self._stats.settled += written.settled
        self._stats.held += written.held
        self._stats.buried += written.buried
        return written.settled + written.buried

    async def _send(
        self,
        epochs: Mapping[int, int],
        trials: Fetched,
        taken: Taken,
        broken: Sequence[Unreadable],
    ) -> Written:
        fetcher = self._fetcher
        messages = [*trials.messages, *taken.messages]
        crashpoint("relay: after fetch, before deliver")
        result = await self._sender.send(trials.messages, taken.messages)
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
        if not self._surplus:
            return
        surplus, self._surplus = self._surplus, frozenset()
        epochs = {b: e for b, e in self._leases.epochs.items() if b not in surplus}
        self._leases = Leases(epochs, self._leases.until)
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
                self._fetcher.keys_may_rest = await self._holds.any(
                    connection, destination, buckets
                )
                return NOTHING
        policy = self._settings.retry
        async with self._engine.begin() as connection:
            await self._store.limit_idleness(connection, self._settings.lease / 4)
            wanted = {key.bucket: epochs[key.bucket] for key in due}
            ours = await self._store.fence(connection, destination, wanted)
            due = [key for key in due if key.bucket in ours]
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
