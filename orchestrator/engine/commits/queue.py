"""The queue of the committer: items in memory, bounded in number and bytes, and those that lie in
the database: stored signals, and timers that are due."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits.database_time import DatabaseTime
from orchestrator.engine.commits.items import Begin, Decline, Item, Look, Tell, bytes_of
from orchestrator.engine.commits.run_cache import RunCache
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.shards import Shards
from orchestrator.errors import OrchestratorError
from orchestrator.store import signal_rows
from orchestrator.store.records import fingerprint_of
from orchestrator.store.signal_rows import AskedStart, StoredStart
from orchestrator.store.start_store import StartKey
from outbox.clock import Clock
from outbox.database.engines import reading
from outbox.errors import InvalidMessage
from outbox.wire.codec import decode_value

log = logging.getLogger(__name__)

_SHORTLY = 0.05
_FIRST_LOOK = 64


class CommitQueue:
    """The queue of items that wait for a commit. `cached` has the runs whose sizes are known."""

    def __init__(
        self,
        engine: AsyncEngine,
        ports: EnginePorts,
        registry: Registry,
        shards: Shards,
        cached: RunCache,
        time: DatabaseTime,
        *,
        clock: Clock,
        settings: EngineSettings,
    ) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._ports = ports
        self._registry = registry
        self._shards = shards
        self._cached = cached
        self._time = time
        self._clock = clock
        self._settings = settings
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._largest = 0  # of the runs in the last commits: an uncached run may be as large
        self._look_most = min(_FIRST_LOOK, settings.batch)
        self._look_at = 0.0
        self._to_unpark: set[int] = set()
        self._added = asyncio.Event()

    # In memory

    @property
    def is_empty(self) -> bool:
        """Whether no item is in memory."""
        return not self._items

    @property
    def is_full(self) -> bool:
        """Whether callers must come back later."""
        settings = self._settings
        return len(self._items) >= settings.queue or self._bytes >= settings.queue_bytes

    @property
    def pause(self) -> float:
        """Seconds until there is an item, as far as is known; 0 where there is one now."""
        return 0.0 if self._items else max(0.0, self._look_at - self._clock.monotonic())

    def put(self, items: Iterable[Item]) -> None:
        """Add items."""
        for item in items:
            self._items.append(item)
            self._bytes += bytes_of(item)
        self._added.set()

    def put_again(self, item: Item) -> None:
        """Let the item wait for a later commit. A stored one is found in the database again."""
        if isinstance(item, Tell | Begin) and item.seq is not None:
            self.look()
        else:
            self.put([item])

    def take(self, found: Sequence[Item]) -> list[Item]:
        """The items of the next commit: those of `found`, then those in memory, as many as fit."""
        items: list[Item] = []
        runs: set[str] = set()
        room = self._settings.batch_bytes
        for item in found:
            room -= self._reckoned(item, runs)
            if items and room < 0:
                self.look()  # the rest is still in the database
                break
            items.append(item)
        while self._items and len(items) < self._settings.batch:
            item = self._items[0]
            room -= self._reckoned(item, runs)
            if items and room < 0:
                break
            self._items.popleft()
            self._bytes -= bytes_of(item)
            if isinstance(item, Begin | Tell) and item.done is not None and item.done.done():
                continue  # the caller has been told that it took too long
            items.append(item)
        return items

    def _reckoned(self, item: Item, runs: set[str]) -> int:
        """The bytes that the item adds to a commit which has these runs already."""
        saga_id = item.instance_id
        if isinstance(item, Begin | Decline) or saga_id in runs:
            return bytes_of(item)
        runs.add(saga_id)
        size = self._cached.size_of(saga_id)
        return bytes_of(item) + (self._largest if size is None else size)

    def committed(self, sizes: Iterable[int]) -> None:
        """Note the sizes of written runs: a run that is not cached may be as large."""
        self._largest = max(self._largest // 2, *sizes, 0)

    async def wait(self, finish: asyncio.Event) -> None:
        """Wait until there is an item, or `finish` is set."""
        while not self._items and not finish.is_set():
            pause = self.pause
            if pause <= 0:
                return
            try:
                async with asyncio.timeout(min(pause, self._settings.relay.poll)):
                    await self._added.wait()
            except TimeoutError:
                pass
            self._added.clear()

    # In the database

    @property
    def is_time_to_look(self) -> bool:
        """Whether there may be items in the database."""
        return self._clock.monotonic() >= self._look_at

    def look(self) -> None:
        """Note that there may be items in the database."""
        self._look_at = 0.0
        self._added.set()

    def look_when_due(self, due: datetime) -> None:
        """Note that a run has a timer for that moment of the database's time."""
        seconds = max(self._time.until(due), _SHORTLY)
        self._look_at = min(self._look_at, self._clock.monotonic() + seconds)

    def look_later(self, failures: int) -> None:
        """Look later, since the database failed so many times in a row."""
        self._look_at = self._clock.monotonic() + min(5.0, 0.1 * 2.0 ** min(failures, 6))

    def unpark(self, shards: frozenset[int]) -> None:
        """Try the parked runs of these shards again, with the next look."""
        self._to_unpark |= shards

    async def find(self) -> list[Item]:
        """The items in the database for this node's shards, at most as many as fit a commit."""
        poll = self._settings.relay.poll
        self._look_at = self._clock.monotonic() + poll
        shards = list(self._shards.usable)
        if not shards:
            return []
        await self._unpark()
        items: list[Item] = []
        most = self._look_most
        runs = self._ports.runs
        async with self._reading.connect() as connection:
            rows = await self._ports.signals.waiting(connection, shards, most)
            due = await runs.next_due(connection, shards)
            self._time.told(await runs.now(connection))
            now = self._time.now()
            if due is not None and due <= now:
                items += map(Look, await runs.due(connection, shards, now, most))
        self._pace_looks([len(row.payload) for row in rows])
        if len(rows) == most or len(items) == most:
            self._look_at = 0.0
        elif due is not None:
            self.look_when_due(due)
        return [*items, *(_from_row(row, self._registry) for row in rows)]

    def _pace_looks(self, sizes: Sequence[int]) -> None:
        """Set the number of items for the next look: as many as fit into a commit, by the largest
        of these."""
        if not sizes:
            return
        fitting = self._settings.batch_bytes // (max(sizes) + 1024)
        self._look_most = max(1, min(self._settings.batch, fitting, self._look_most * 4))

    async def _unpark(self) -> None:
        if self._to_unpark:
            shards = frozenset(self._to_unpark)
            async with self._engine.begin() as connection:
                await self._ports.runs.unpark(connection, shards)
            self._to_unpark -= shards


def _from_row(row: Any, registry: Registry) -> Item:
    """The item of a stored signal: `row` is one of `SignalStore.waiting`."""
    seq, saga_id, kind, payload = row.seq, row.saga_id, row.kind, row.payload
    try:
        signal = signal_rows.load(kind, payload)
    except ValueError as error:
        log.error(
            "a stored signal for saga %s is unreadable: %s",
            saga_id,
            error,
            extra={"saga": saga_id},
        )
        return Decline(saga_id, "", f"unreadable: {error}", seq)
    if isinstance(signal, AskedStart):
        return _asked_from(signal, saga_id, seq, registry, size=len(payload))
    if not isinstance(signal, StoredStart):
        return Tell(saga_id, signal, seq=seq, size=len(payload))
    return _start_from(signal, saga_id, seq, registry, start_id=row.message_id, size=len(payload))


def _start_from(
    asked: StoredStart,
    saga_id: str,
    seq: int,
    registry: Registry,
    *,
    start_id: str | None,
    size: int,
) -> Begin | Decline:
    """A start by message, of any age: a run whose id was used before is still there, and a new
    run's age is told by its number."""
    fingerprint = fingerprint_of(asked.name, asked.input, asked.originator)
    try:
        definition = registry.get(asked.name)
        state = decode_value(definition.state, asked.input)
    except (OrchestratorError, InvalidMessage) as error:
        return Decline(
            saga_id, asked.originator, str(error), seq, asked.trace, start_id, fingerprint
        )
    return Begin(
        saga_id,
        definition,
        state,
        originator=asked.originator,
        trace=asked.trace,
        seq=seq,
        start_id=start_id,
        size=size,
        begin_at=asked.begin_at,
        fingerprint=fingerprint,
    )


def _asked_from(
    asked: AskedStart, saga_id: str, seq: int, registry: Registry, *, size: int
) -> Begin | Decline:
    """A start by a caller of another process."""
    try:
        definition = registry.get(asked.name)
        state = decode_value(definition.state, asked.input)
    except (OrchestratorError, InvalidMessage) as error:
        return Decline(saga_id, "", str(error), seq, is_asked=True)
    key = None
    if asked.key is not None:
        fingerprint = bytes.fromhex(asked.fingerprint or "")
        key = StartKey(asked.name, asked.key, fingerprint, saga_id)
    return Begin(
        saga_id,
        definition,
        state,
        key=key,
        trace=asked.trace,
        seq=seq,
        size=size,
        begin_at=asked.begin_at,
        fingerprint=fingerprint_of(asked.name, asked.input, None),
        is_asked=True,
    )
