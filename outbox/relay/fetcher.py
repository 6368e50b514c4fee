"""The fetcher of one destination's next messages, from the table and from memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.lanes import BUCKETS, BUCKETS_PER_LANE, Lane
from outbox.relay.low_watermarks import LowWatermarks
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Fetched
from outbox.relay.ports import RelayPorts
from outbox.relay.sender import Round
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import Pending

_MARK_EVERY = 1.0
NOTHING = Fetched((), (), frozenset())


@dataclass(frozen=True, slots=True)
class Taken:
    """The messages of one round: those `fetched` from the table, and those `offered` in memory.
    `proven` is the number up to which the table was settled before the fetch, `left_out` the lowest
    `seq` in each bucket of what other rounds have."""

    fetched: Fetched
    offered: Sequence[Pending]
    proven: int
    left_out: Mapping[int, int]

    def from_memory(self) -> Taken:
        """Those in memory alone."""
        return Taken(NOTHING, self.offered, 0, {})

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
        self.full: Set[int] = frozenset()
        """The buckets of which the last read saw no end."""
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

    @property
    def offered(self) -> int:
        """How many messages are in memory."""
        return 0 if self._memory is None else len(self._memory)

    def has_unread(self, epochs: Mapping[int, int]) -> bool:
        """Whether some of these buckets must be read from the table."""
        return self._memory is None or bool(self._memory.unread(epochs))

    def has_backlog(self, epochs: Mapping[int, int]) -> bool:
        """Whether two of these buckets may have more than one round can take."""
        return len(self.full & epochs.keys()) > 1

    async def take(
        self,
        epochs: Mapping[int, int],
        busy: Set[tuple[int, str]],
        *,
        reads: bool,
        half: bool = False,
    ) -> Taken:
        """The next messages of these buckets, each key's in order, without the `busy` keys, which
        other rounds have; from memory alone unless it `reads` the table; `half` as many as there
        may be in memory, where another round has the other half. A message offered in memory is not
        fetched a second time."""
        self._turn += 1
        proven = self._floors.proven
        fetched, left_out = await self._fetch(epochs, busy, half) if reads else (NOTHING, {})
        room = self._settings.fetch - len(fetched.messages)
        return Taken(fetched, self._take_offered(epochs, room, busy), proven, left_out)

    def sent(self, taken: Taken, result: Round) -> None:
        """Note that the outcome of these messages was written."""
        if taken.proven == 0:
            return  # no floor can rise
        gone = result.gone
        fetched = taken.fetched
        reached: dict[int, int | None] = dict.fromkeys(fetched.exhausted)
        left = dict(taken.left_out)
        for message in fetched.messages:
            if message.bucket not in fetched.exhausted:
                reached[message.bucket] = message.seq
            if message.seq not in gone:
                left[message.bucket] = min(message.seq, left.get(message.bucket, message.seq))
        self._floors.raise_to(taken.proven, reached, left)

    async def look_for_resting_keys(
        self, connection: AsyncConnection, buckets: Collection[int]
    ) -> None:
        """Note whether any key of these buckets rests, which are all that the courier has."""
        # First, since a round that ends meanwhile may let a key rest.
        self.keys_may_rest = False
        try:
            found = await self._holds.any(connection, self._destination, list(buckets))
        except BaseException:
            self.keys_may_rest = True
            raise
        if found:
            self.keys_may_rest = True

    def forget_undelivered(self, messages: Iterable[Pending], result: Round) -> None:
        """Let the buckets of messages that stay be read from the table again, so that no later
        message overtakes them."""
        if self._memory is not None:
            gone = result.gone
            self._memory.distrust({m.bucket for m in messages if m.seq not in gone})

    async def _fetch(
        self, epochs: Mapping[int, int], busy: Set[tuple[int, str]], half: bool
    ) -> tuple[Fetched, Mapping[int, int]]:
        now = self._clock.monotonic()
        if now - self._swept_at >= self._settings.sweep:
            self._swept_at = now
            self._doubted.update(BUCKETS)
            self.keys_may_rest = True
            if self._memory is not None:
                self._memory.distrust_all()
        wanted: Collection[int] = epochs
        resting: frozenset[int] = frozenset()
        if self._memory is not None:
            wanted = self._memory.unread(epochs)
            if not wanted:
                return NOTHING, {}
            # A message handed to the settlement must not be fetched again; nor one of a round that
            # ends before the table is read.
            before = frozenset(busy)
            await self._settled()
            busy = busy | before
            self._memory.begin(wanted)
        # Not those of another round, which may still raise their floors.
        self._floors.reset(self._doubted.intersection(wanted))
        self._doubted.difference_update(wanted)
        parts = 2 if half else 1
        most = max(1, self._settings.fetch // parts)
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
                shares=shares(wanted, self.full, most),
                most=most,
                most_bytes=self._settings.fetch_bytes // parts,
            )
        self.full = (self.full - frozenset(wanted)) | (frozenset(wanted) - fetched.exhausted)
        if self._memory is None:
            return fetched, {}  # other rounds have other buckets
        fetched, left_out = _without(fetched, busy)
        self._memory.read(fetched.exhausted - resting, {m.seq for m in fetched.messages})
        return fetched, left_out

    def _take_offered(
        self, epochs: Mapping[int, int], room: int, busy: Set[tuple[int, str]]
    ) -> list[Pending]:
        if self._memory is None or not self._memory:
            return []
        buckets = self._in_turn(self._memory.waiting & epochs.keys())
        return self._memory.take(buckets, room, self._settings.fetch_bytes, busy)

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


def shares(buckets: Collection[int], full: Set[int], most: int) -> Mapping[int, int]:
    """How many messages of each of these buckets to read, `most` in all and half of that of one. If
    some are `full`, which have more than a round can take, these share it evenly, and no other
    normal one has more than they.

    What was committed together is then read and deleted together, in few pages of the table. An
    urgent bucket comes first with all that it has.
    """
    largest = max(1, most // 2)
    sharing = sum(1 for bucket in buckets if bucket in full)
    share = min(largest, -(-most // sharing)) if sharing else largest
    return {b: largest if b // BUCKETS_PER_LANE == Lane.URGENT else share for b in buckets}


def _without(fetched: Fetched, busy: Set[tuple[int, str]]) -> tuple[Fetched, Mapping[int, int]]:
    """What was fetched without the messages of these keys, of which the lowest `seq` in each bucket
    is told. A bucket that has any was not read to its end."""
    left_out: dict[int, int] = {}
    messages = []
    for message in fetched.messages:
        if message.key in busy:
            left_out.setdefault(message.bucket, message.seq)
        else:
            messages.append(message)
    if not left_out:
        return fetched, left_out
    return Fetched(messages, fetched.unreadable, fetched.exhausted - left_out.keys()), left_out
