"""Carries the messages of one destination: fetch, send, settle, again and again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.coordination.leases import Leases
from outbox.crashpoints import crashpoint
from outbox.database.engines import reading
from outbox.lanes import BUCKETS_PER_LANE
from outbox.relay.low_watermarks import LowWatermarks
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Fetched
from outbox.relay.ports import RelayPorts
from outbox.relay.sender import Round, Sender
from outbox.relay.settings import RelaySettings
from outbox.relay.settler import ReplySink, Settlement, Settler
from outbox.relay.verdicts import Pending
from outbox.transports.base import Transport

_TRIALS = 50
_FIRST_FETCH = 64
_MARK_EVERY = 1.0
_NOTHING = Fetched((), (), frozenset())


@dataclass
class CourierStats:
    """What one courier has done since the process started. `unanswered` counts requests, the
    others messages."""

    settled: int = 0
    held: int = 0
    buried: int = 0
    unanswered: int = 0


class Courier:
    """One destination's carrier. Its relay tells it the leases; one task at a time calls
    `run_once`."""

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
        feed: MemoryQueue | None = None,
        ports: RelayPorts | None = None,
        chance: Callable[[], float],
    ) -> None:
        self._postgres = engine.dialect.name == "postgresql"
        self._engine = engine
        self._reading = reading(engine)
        ports = ports or RelayPorts.of(engine, clock)
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
        self._feed = feed
        self._stats = CourierStats()
        self._leases = Leases()
        self._surplus: frozenset[int] = frozenset()
        self._floors = LowWatermarks()
        self._doubted: set[int] = set()
        self._mark: tuple[int, int] | None = None
        self._marked_at = self._swept_at = clock.monotonic()
        self._may_hold = True
        self._fetch_most = _FIRST_FETCH
        self._turn = 0

    # What the relay tells and asks it

    @property
    def leases(self) -> Leases:
        """The buckets that it may send from."""
        return self._leases

    def lease(self, leases: Leases) -> None:
        """From now on these are its buckets."""
        before, self._leases = self._leases.epochs, leases
        if before == leases.epochs:
            return  # only their end has moved
        gained = [b for b, epoch in leases.epochs.items() if before.get(b) != epoch]
        if gained:
            self._may_hold = True
        lost = [b for b in before if b not in leases.epochs]
        self.distrust([*gained, *lost])

    def distrust(self, buckets: Iterable[int]) -> None:
        """Read these buckets from the table again, from its beginning."""
        buckets = list(buckets)
        # Not at once: the round under way may still raise the floors by what it believes settled.
        self._doubted.update(buckets)
        if self._feed is not None:
            self._feed.distrust(buckets)

    async def give_up(self, buckets: Sequence[int]) -> None:
        """Give these leases back before the next round, when nothing of them is under way."""
        self._surplus = frozenset(buckets)

    @property
    def stats(self) -> CourierStats:
        """What it has done so far."""
        self._stats.unanswered = self._sender.unanswered
        return self._stats

    @property
    def is_blocked(self) -> bool:
        """Whether the destination gives no answer at present."""
        return self._sender.is_blocked

    async def step(self) -> float:
        """One round, and the seconds to wait before the next."""
        return 0.0 if await self.run_once() else await self.pause()

    async def pause(self) -> float:
        """Seconds to wait after a round that settled nothing, if no bell rings."""
        if blocked := self._sender.blocked_for():
            return min(blocked, self._settings.poll)
        usable = self._usable()
        if not usable or not self._may_hold:
            return self._settings.poll
        async with self._reading.connect() as connection:
            due = await self._holds.next_due(connection, self._destination, list(usable))
        return self._settings.poll if due is None else min(due, self._settings.poll)

    # A round

    async def run_once(self) -> int:
        """One round; how many messages were settled or buried. Database errors pass through: then
        nothing is settled, and what was delivered will be delivered again."""
        await self._return_surplus()
        epochs = self._usable()
        if not epochs or self._sender.blocked_for():
            return 0
        trials = await self._begin_trials(epochs) if self._may_hold else _NOTHING
        proven = self._floors.proven
        fetched = await self._fetch(epochs)
        offered = self._take_offered(epochs, room=self._fetch_most - len(fetched.messages))
        messages = [*trials.messages, *fetched.messages, *offered]
        if not (messages or fetched.unreadable or trials.unreadable):
            self._floors.raise_to(proven, dict.fromkeys(fetched.exhausted), {})
            return 0
        crashpoint("relay: after fetch, before deliver")
        result = await self._sender.send(trials.messages, [*fetched.messages, *offered])
        crashpoint("relay: after deliver, before settle")
        broken = (*trials.unreadable, *fetched.unreadable)
        written = await self._settler.write(epochs, result, broken)
        crashpoint("relay: after settle")
        self._raise_floors(proven, fetched, result)
        self._floors.reset(written.freed)
        if self._feed is not None:
            # What stays is found in the table; nothing of its bucket may overtake it meanwhile.
            gone = result.gone
            self._feed.distrust({m.bucket for m in messages if m.seq not in gone})
        self._may_hold = self._may_hold or written.held > 0
        self._stats.settled += written.settled
        self._stats.held += written.held
        self._stats.buried += written.buried
        return written.settled + written.buried

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
                self._may_hold = await self._holds.any(connection, destination, buckets)
                return _NOTHING
        policy = self._settings.retry
        async with self._engine.begin() as connection:
            await self._store.limit_idleness(connection, self._settings.lease / 4)
            wanted = {key.bucket: epochs[key.bucket] for key in due}
            ours = await self._store.fence(connection, destination, wanted)
            due = [key for key in due if key.bucket in ours]
            if not due:
                return _NOTHING
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
        self._floors.reset({key.bucket for key in due})
        return found

    async def _fetch(self, epochs: Mapping[int, int]) -> Fetched:
        now = self._clock.monotonic()
        if now - self._swept_at >= self._settings.sweep:
            self._swept_at = now
            self._floors.sweep()
            self._may_hold = True
            if self._feed is not None:
                self._feed.distrust_all()
        wanted: Collection[int] = epochs
        resting: frozenset[int] = frozenset()
        if self._feed is not None:
            wanted = self._feed.unread(epochs)
            if not wanted:
                return _NOTHING
            # What was handed to the settlement must not be found again.
            await self._settler.settled()
            self._feed.begin(wanted)
        self._floors.reset(self._doubted)
        self._doubted.clear()
        async with self._reading.connect() as connection:
            if self._feed is not None and self._may_hold:
                resting = await self._holds.buckets(connection, self._destination)
            if self._postgres and now - self._marked_at >= _MARK_EVERY:
                self._marked_at = now
                await self._move_mark(connection)
            fetched = await self._store.fetch(
                connection,
                self._destination,
                self._floors.of(self._in_turn(wanted)),
                per_bucket=max(1, self._fetch_most // 2),
                most=self._fetch_most,
            )
        self._pace_fetches(fetched.messages)
        if self._feed is not None:
            self._feed.read(fetched.exhausted - resting, {m.seq for m in fetched.messages})
        return fetched

    def _take_offered(self, epochs: Mapping[int, int], room: int) -> list[Pending]:
        if self._feed is None or not self._feed:
            return []
        offered = self._feed.take(
            self._in_turn(self._feed.waiting & epochs.keys()), room, self._settings.fetch_bytes
        )
        self._pace_fetches(offered)
        return offered

    def _in_turn(self, buckets: Collection[int]) -> list[int]:
        """The urgent lane first; within a lane each bucket comes first in its turn, so that none is
        left behind by a full one."""
        self._turn += 1
        if len(buckets) < 2:
            return list(buckets)
        size = BUCKETS_PER_LANE
        return sorted(buckets, key=lambda bucket: (bucket // size, (bucket + self._turn) % size))

    def _pace_fetches(self, messages: Sequence[Pending]) -> None:
        """Next time as many as memory is meant for, judged by the largest of these."""
        if messages:
            largest = max(len(message.envelope.data) for message in messages)
            fitting = self._settings.fetch_bytes // (largest + 1024)
            self._fetch_most = max(1, min(self._settings.fetch, fitting, self._fetch_most * 4))

    async def _move_mark(self, connection: AsyncConnection) -> None:
        """Prove a little more of the sequence settled."""
        if self._mark is not None:
            seq, xid = self._mark
            if await self._store.oldest_xid(connection) < xid:
                return
            self._floors.prove(seq)
        self._mark = await self._store.settled_mark(connection)

    def _raise_floors(self, proven: int, fetched: Fetched, result: Round) -> None:
        gone = result.gone
        reached: dict[int, int | None] = dict.fromkeys(fetched.exhausted)
        left: dict[int, int] = {}
        for message in fetched.messages:
            if message.bucket not in fetched.exhausted:
                reached[message.bucket] = message.seq
            if message.seq not in gone:
                left.setdefault(message.bucket, message.seq)
        self._floors.raise_to(proven, reached, left)
