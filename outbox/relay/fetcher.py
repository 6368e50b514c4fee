"""The fetcher of one destination's next messages, from the table and from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.lanes import BUCKETS_PER_LANE
from outbox.relay.low_watermarks import LowWatermarks
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Fetched
from outbox.relay.ports import RelayPorts
from outbox.relay.round import Round
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import Pending

_MARK_EVERY = 1.0
NOTHING = Fetched((), (), frozenset())


@dataclass(frozen=True, slots=True)
class Taken:
    """The messages of one round: those `fetched` from the table, and those `offered` in memory.
    `proven` is the number up to which the table was settled before the fetch."""

    fetched: Fetched
    offered: Sequence[Pending]
    proven: int

    @property
    def messages(self) -> list[Pending]:
        """All of them, in the order in which they leave."""
        return [*self.fetched.messages, *self.offered]


class Fetcher:
    """The fetcher of one destination. `settled()` waits until the rows of answered messages are
    gone.

    It reads each bucket from its low watermark, and leaves out the buckets whose messages come
    from memory.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        destination: str,
        *,
        ports: RelayPorts,
        clock: Clock,
        settings: RelaySettings,
        settled: Callable[[], Awaitable[None]],
        memory: MemoryQueue | None = None,
    ) -> None:
        self._postgres = engine.dialect.name == "postgresql"
        self._reading = reading(engine)
        self._store = ports.messages
        self._holds = ports.holds
        self._destination = destination
        self._clock = clock
        self._settings = settings
        self._settled = settled
        self._memory = memory
        self._floors = LowWatermarks()
        self._doubted: set[int] = set()
        self._mark: tuple[int, int] | None = None
        self._marked_at = self._swept_at = clock.monotonic()
        self._turn = 0
        self.keys_may_rest = True
        """Whether the destination may have keys that rest. It is False after a look found none."""

    def distrust(self, buckets: Iterable[int]) -> None:
        """Read these buckets from the table again, from its beginning."""
        buckets = list(buckets)
        # Not at once: the round under way may still raise the floors by what it believes settled.
        self._doubted.update(buckets)
        if self._memory is not None:
            self._memory.distrust(buckets)

    def start_over(self, buckets: Iterable[int]) -> None:
        """Fetch these buckets from their beginning again, since rows of theirs have come back."""
        self._floors.reset(buckets)

    async def take(self, epochs: Mapping[int, int]) -> Taken:
        """The next messages of these buckets, each key's in order. A message offered in memory is
        not fetched a second time."""
        self._turn += 1
        proven = self._floors.proven
        fetched = await self._fetch(epochs)
        room = self._settings.fetch - len(fetched.messages)
        return Taken(fetched, self._take_offered(epochs, room), proven)

    def sent(self, taken: Taken, result: Round) -> None:
        """Note that the outcome of these messages was written."""
        gone = result.gone
        fetched = taken.fetched
        reached: dict[int, int | None] = dict.fromkeys(fetched.exhausted)
        left: dict[int, int] = {}
        for message in fetched.messages:
            if message.bucket not in fetched.exhausted:
                reached[message.bucket] = message.seq
            if message.seq not in gone:
                left.setdefault(message.bucket, message.seq)
        self._floors.raise_to(taken.proven, reached, left)

    def forget_undelivered(self, messages: Iterable[Pending], result: Round) -> None:
        """Let the buckets of messages that stay be read from the table again, so that no later
        message overtakes them."""
        if self._memory is not None:
            gone = result.gone
            self._memory.distrust({m.bucket for m in messages if m.seq not in gone})

    async def _fetch(self, epochs: Mapping[int, int]) -> Fetched:
        now = self._clock.monotonic()
        if now - self._swept_at >= self._settings.sweep:
            self._swept_at = now
            self._floors.sweep()
            self.keys_may_rest = True
            if self._memory is not None:
                self._memory.distrust_all()
        wanted: Collection[int] = epochs
        resting: frozenset[int] = frozenset()
        if self._memory is not None:
            wanted = self._memory.unread(epochs)
            if not wanted:
                return NOTHING
            # A message handed to the settlement must not be fetched again.
            await self._settled()
            self._memory.begin(wanted)
        self._floors.reset(self._doubted)
        self._doubted.clear()
        async with self._reading.connect() as connection:
            if self._memory is not None and self.keys_may_rest:
                resting = await self._holds.buckets(connection, self._destination)
            if self._postgres and now - self._marked_at >= _MARK_EVERY:
                self._marked_at = now
                await self._move_mark(connection)
            fetched = await self._store.fetch(
                connection,
                self._destination,
                self._floors.of(self._in_turn(wanted)),
                per_bucket=max(1, self._settings.fetch // 2),
                most=self._settings.fetch,
                most_bytes=self._settings.fetch_bytes,
            )
        if self._memory is not None:
            self._memory.read(fetched.exhausted - resting, {m.seq for m in fetched.messages})
        return fetched

    def _take_offered(self, epochs: Mapping[int, int], room: int) -> list[Pending]:
        if self._memory is None or not self._memory:
            return []
        buckets = self._in_turn(self._memory.waiting & epochs.keys())
        return self._memory.take(buckets, room, self._settings.fetch_bytes)

    def _in_turn(self, buckets: Collection[int]) -> list[int]:
        """The urgent lane first; within a lane each bucket comes first in its turn, so that none is
        left behind by a full one."""
        if len(buckets) < 2:
            return list(buckets)
        size = BUCKETS_PER_LANE
        return sorted(buckets, key=lambda bucket: (bucket // size, (bucket + self._turn) % size))

    async def _move_mark(self, connection: AsyncConnection) -> None:
        """Move the settled mark on, as far as the database proves it."""
        if self._mark is not None:
            seq, xid = self._mark
            if await self._store.oldest_xid(connection) < xid:
                return
            self._floors.prove(seq)
        self._mark = await self._store.settled_mark(connection)
