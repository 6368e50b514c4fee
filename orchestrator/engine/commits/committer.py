"""The group committer: whatever has gathered while the last commit was on its way becomes the next
transaction.

One task commits, so the runs of a node take their steps one after the other, many at a time. The
promises of a commit: all of it or nothing; nothing under a lease that was lost; and where its
outcome is unknown, it is found out before anybody is told anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits import run_log
from orchestrator.engine.commits.database_time import DatabaseTime
from orchestrator.engine.commits.group_commit import GroupCommit, by_run
from orchestrator.engine.commits.items import (
    Answer,
    Begin,
    Decline,
    Look,
    Tell,
    Work,
    bytes_of,
    shard_for,
)
from orchestrator.engine.commits.run_cache import RunCache
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.shards import Shards
from orchestrator.engine.watchers import Watchers
from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.safe_text import described
from orchestrator.store import signal_rows
from orchestrator.store.commit_statements import StaleRuns
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart
from outbox.clock import Clock
from outbox.crashpoints import crashpoint
from outbox.database.engines import reading
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import InvalidMessage
from outbox.wire.codec import decode_value

log = logging.getLogger(__name__)

_TRIES = 5
_SHORTLY = 0.05
_FIRST_LOOK = 64


class _NotCommitted(Exception):
    """The database did not take the commit."""


class Outgoing(Protocol):
    """Where committed messages go."""

    def hand_over(self, messages: Sequence[OutgoingMessage], seqs: Mapping[str, int]) -> None:
        """These were committed, with these numbers."""

    def withdraw(self, ids: frozenset[str]) -> None:
        """These are gone from the table."""

    def distrust(self, shards: Iterable[int]) -> None:
        """The table alone tells what these shards have to send."""


@dataclass
class CommitterStats:
    """What was done since the start."""

    commits: int = 0
    transitions: int = 0
    failures: int = 0


class Committer:
    """Commits what is put into its queue, what lies in the database for its shards, and what
    timers want."""

    def __init__(
        self,
        engine: AsyncEngine,
        ports: EnginePorts,
        registry: Registry,
        shards: Shards,
        outgoing: Outgoing,
        watchers: Watchers,
        *,
        clock: Clock,
        ids: Callable[[], str],
        settings: EngineSettings,
    ) -> None:
        self.stats = CommitterStats()
        self._engine = engine
        self._reading = reading(engine)
        self._ports = ports
        self._registry = registry
        self._shards = shards
        self._outgoing = outgoing
        self._watchers = watchers
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._sleep = ports.sleep
        self._time = DatabaseTime(clock)
        self._queue: deque[Work] = deque()
        self._queued_bytes = 0
        self._cached = RunCache(settings.cached, settings.cached_bytes)
        self._largest = 0  # of the runs in the last commits: what is not cached may be so large
        self._look_most = min(_FIRST_LOOK, settings.batch)
        self._work = asyncio.Event()
        self._look_at = 0.0
        self._to_unpark: set[int] = set()

    # From outside

    @property
    def is_full(self) -> bool:
        """Whether those who ask must be told to come back."""
        settings = self._settings
        return len(self._queue) >= settings.queue or self._queued_bytes >= settings.queue_bytes

    @property
    def pause(self) -> float:
        """Seconds until there is something to do, as far as it knows; 0 where there is now."""
        return 0.0 if self._queue else max(0.0, self._look_at - self._clock.monotonic())

    def put(self, items: Iterable[Work]) -> None:
        """Do this soon."""
        for item in items:
            self._queue.append(item)
            self._queued_bytes += bytes_of(item)
        self._work.set()

    def look(self) -> None:
        """There may be something in the database."""
        self._look_at = 0.0
        self._work.set()

    def shards_changed(self, gained: frozenset[int], lost: frozenset[int]) -> None:
        """Forget what another node may have changed. What memory has of lost shards is of no use,
        and is forgotten when they come back: a commit that is under way may still add to it."""
        self._cached.forget_shards(gained)
        self._to_unpark |= gained
        self.look()

    # The loop

    async def run(self, finish: asyncio.Event) -> None:
        """Commit until `finish` is set and nothing is queued any more."""
        failures = 0
        while not (finish.is_set() and not self._queue):
            try:
                await self._until_work(finish)
                await self.run_once()
                failures = 0
            except Exception as error:
                failures += 1
                self.in_trouble(failures)
                is_ours = trouble_in_statement(error) is Trouble.OWN
                log.warning(
                    "the engine could not commit, trying again: %s",
                    described(error),
                    exc_info=error if is_ours else None,
                )
                await self._sleep(_SHORTLY)

    async def run_once(self) -> int:
        """Do what there is, as far as it fits into one commit; how many things that were."""
        items: list[Work] = []
        runs: set[str] = set()
        room = self._settings.batch_bytes
        if self._clock.monotonic() >= self._look_at:
            for item in await self._found():
                room -= self._reckoned(item, runs)
                if items and room < 0:
                    self.look()  # the rest is still in the database
                    break
                items.append(item)
        while self._queue and len(items) < self._settings.batch:
            item = self._queue[0]
            room -= self._reckoned(item, runs)
            if items and room < 0:
                break
            self._queue.popleft()
            self._queued_bytes -= bytes_of(item)
            if isinstance(item, Begin | Tell) and item.done is not None and item.done.done():
                continue  # who asked has been told that it took too long
            items.append(item)
        if items:
            await self._commit(items)
        return len(items)

    def _reckoned(self, item: Work, runs: set[str]) -> int:
        """The bytes that it adds to a commit in which there are these runs already."""
        saga_id = item.instance_id
        if isinstance(item, Begin | Decline) or saga_id in runs:
            return bytes_of(item)
        runs.add(saga_id)
        size = self._cached.size_of(saga_id)
        return bytes_of(item) + (self._largest if size is None else size)

    def in_trouble(self, failures: int) -> None:
        """The database failed so many times in a row: look at it later."""
        self._look_at = self._clock.monotonic() + min(5.0, 0.1 * 2.0 ** min(failures, 6))

    async def _until_work(self, finish: asyncio.Event) -> None:
        while not self._queue and not finish.is_set():
            pause = self.pause
            if pause <= 0:
                return
            try:
                async with asyncio.timeout(min(pause, self._settings.relay.poll)):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()

    # What lies in the database

    async def _found(self) -> list[Work]:
        poll = self._settings.relay.poll
        self._look_at = self._clock.monotonic() + poll
        shards = list(self._shards.usable)
        if not shards:
            return []
        await self._unpark()
        items: list[Work] = []
        most = self._look_most
        async with self._reading.connect() as connection:
            rows = await self._ports.signals.waiting(connection, shards, most)
            due = await self._ports.runs.next_due(connection, shards)
            self._time.told(await self._ports.runs.now(connection))
            now = self._time.now()
            if due is not None and due <= now:
                items += map(Look, await self._ports.runs.due(connection, shards, now, most))
        self._pace_looks([len(row.payload) for row in rows])
        if len(rows) == most or len(items) == most:
            self._look_at = 0.0
        elif due is not None:
            self._look_when_due(max(self._time.until(due), _SHORTLY))
        return [*items, *(self._from_row(row) for row in rows)]

    def _pace_looks(self, sizes: Sequence[int]) -> None:
        """Next time as many as fit into a commit, judged by the largest of these."""
        if not sizes:
            return
        fitting = self._settings.batch_bytes // (max(sizes) + 1024)
        self._look_most = max(1, min(self._settings.batch, fitting, self._look_most * 4))

    def _look_when_due(self, seconds: float) -> None:
        self._look_at = min(self._look_at, self._clock.monotonic() + seconds)

    async def _unpark(self) -> None:
        if self._to_unpark:
            shards = frozenset(self._to_unpark)
            async with self._engine.begin() as connection:
                await self._ports.runs.unpark(connection, shards)
            self._to_unpark -= shards

    def _from_row(self, row: Any) -> Work:
        """`row` is one of `SignalStore.waiting`."""
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
        if not isinstance(signal, StoredStart):
            return Tell(saga_id, signal, seq=seq, size=len(payload))
        return self._begin_from(signal, saga_id, seq, start_id=row.message_id, size=len(payload))

    def _begin_from(
        self, asked: StoredStart, saga_id: str, seq: int, *, start_id: str | None, size: int
    ) -> Begin | Decline:
        """However old it is: the run of an id that was used before is still there, and its age is
        told by the number that it gets now."""
        try:
            definition = self._registry.get(asked.name)
            state = decode_value(definition.state, asked.input)
        except (OrchestratorError, InvalidMessage) as error:
            return Decline(saga_id, asked.originator, str(error), seq, asked.trace, start_id)
        return Begin(
            saga_id,
            definition,
            state,
            originator=asked.originator,
            trace=asked.trace,
            seq=seq,
            start_id=start_id,
            size=size,
        )

    # Committing

    async def _commit(self, items: Sequence[Work]) -> None:
        """All of it, in one transaction if that is possible."""
        for attempt in range(_TRIES):
            try:
                await self._transact(items)
                return
            except _NotCommitted as error:
                self._give_up(items, error)
                return
            except StaleRuns:
                self._read_again(items)
            except Exception as error:
                # Nothing of this talks to another service than the database.
                trouble = trouble_in_statement(error)
                if trouble is Trouble.OWN and attempt == 0:
                    # A stale run's next line of history may be taken already.
                    self._read_again(items)
                elif trouble is Trouble.OWN:
                    await self._divide(items, error)
                    return
                elif trouble is not Trouble.CROSSED:
                    self._give_up(items, error)
                    return
            await self._sleep(_SHORTLY * attempt)
        self._give_up(items, Unavailable("other nodes were in the way"))

    def _read_again(self, items: Iterable[Work]) -> None:
        for item in items:
            self._cached.forget(item.instance_id)

    async def _divide(self, items: Sequence[Work], error: Exception) -> None:
        """Something in it cannot be written, or is a mistake of ours: find the run."""
        runs = list(by_run(items).values())
        if len(runs) > 1:
            middle = len(runs) // 2
            for half in (runs[:middle], runs[middle:]):
                await self._commit([item for run in half for item in run])
            return
        saga_id = items[0].instance_id
        log.error("saga %s cannot be worked on", saga_id, exc_info=error, extra={"saga": saga_id})
        reason = f"a commit failed: {described(error)}"
        try:
            await self._park(saga_id, reason)
        except Exception as another:
            log.warning("it could not be parked: %s", described(another))
        declined = [
            Decline(it.instance_id, it.originator or "", reason, it.seq, it.trace, it.start_id)
            for it in items
            if isinstance(it, Begin) and it.seq is not None
        ]
        self._give_up(items, Unavailable(reason))
        if declined:
            await self._commit(declined)

    async def _park(self, saga_id: str, reason: str) -> None:
        shard = shard_of(saga_id)
        epochs = {it: epoch for it, epoch in self._shards.leases.epochs.items() if it == shard}
        async with self._engine.begin() as connection:
            if epochs and await self._ports.statements.fence(connection, epochs):
                await self._ports.runs.park(connection, saga_id, reason)

    async def _transact(self, items: Sequence[Work]) -> None:
        batch = self._ids()
        async with self._connected() as connection:
            group, mine, others = await self._write(connection, batch, items)
            crashpoint("engine: before commit")
            try:
                await connection.commit()
            except Exception as error:
                log.warning("whether a commit took place is unknown: %s", described(error))
                await connection.invalidate()
                if not await self._was_committed(batch):
                    raise _NotCommitted(described(error)) from error
                self._distrust(mine)
                self._again(group.again)
                group.resolve()
                self._settle([item for item in mine if item not in group.again])
                self._watchers.tell(group.records, ended=group.ended)
                run_log.tell(group.news)
                self._give_up(others, Unavailable("another node owns this run by now"))
                return
        crashpoint("engine: after commit, before hand-over")
        self._committed(group, mine)
        self._give_up(others, Unavailable("another node owns this run by now"))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """A connection. Raises _NotCommitted where there is none: no run is to blame for that,
        since nothing of any was asked yet."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._engine.connect())
            except Exception as error:
                raise _NotCommitted(described(error)) from error
            yield connection

    async def _write(
        self, connection: AsyncConnection, batch: str, items: Sequence[Work]
    ) -> tuple[GroupCommit, list[Work], list[Work]]:
        """Everything before the commit; which items are in it, and which are another node's."""
        epochs = self._shards.leases.epochs
        touched = {shard_for(item) for item in items}
        wanted = {shard: epochs[shard] for shard in sorted(touched) if shard in epochs}
        now, ours = await self._ports.statements.open(
            connection, batch, wanted, idle=self._settings.relay.lease / 4
        )
        if lost := frozenset(wanted) - ours:
            self._shards.forget(lost)
        assert now is not None, "a new id was there already"
        self._time.told(now)
        mine = [item for item in items if shard_for(item) in ours]
        others = [item for item in items if shard_for(item) not in ours]
        group = GroupCommit(connection, self._ports, self._registry, self._cached, now)
        await group.work(mine)
        return group, mine, others

    async def _was_committed(self, batch: str) -> bool:
        """Find out, by writing the same id: that waits for a transaction which is still at it."""
        for attempt in range(_TRIES * 4):
            try:
                async with self._engine.connect() as connection:
                    is_there = await self._ports.statements.write_batch(connection, batch) is None
                    # Were it committed and the answer lost, the next look would find this row.
                    await connection.rollback()
                    return is_there
            except Exception as error:
                log.warning("the outcome of a commit is still unknown: %s", described(error))
                await self._sleep(min(2.0, 0.1 * 2**attempt))
        # Nobody is told anything. What was written, if it was, is found by the revisions.
        return False

    # Afterwards

    def _committed(self, group: GroupCommit, items: Sequence[Work]) -> None:
        self.stats.commits += 1
        self.stats.transitions += group.transitions
        self._largest = max(self._largest // 2, *group.sizes.values(), 0)
        for saga_id, record in group.records.items():
            if record.instance.ended is not None:
                self._cached.forget(saga_id)
            else:
                self._cached.keep(record, group.sizes[saga_id])
                if record.due_at is not None:
                    self._look_when_due(max(self._time.until(record.due_at), _SHORTLY))
        for saga_id in group.parked:
            self._cached.forget(saga_id)
        if group.withdrawn:
            self._outgoing.withdraw(frozenset(group.withdrawn))
        self._outgoing.hand_over(group.messages, group.seqs)
        self._again(group.again)
        group.resolve()
        self._settle([item for item in items if item not in group.again])
        self._watchers.tell(group.records, ended=group.ended)
        run_log.tell(group.news)

    def _again(self, items: Iterable[Work]) -> None:
        for item in items:
            if isinstance(item, Begin) and item.tries >= _TRIES:
                self._give_up([item], Unavailable("other runs for the same key come and go"))
            elif isinstance(item, Tell | Begin) and item.seq is not None:
                self.look()  # it is still in the database
            else:
                self.put([item])

    def _settle(self, items: Iterable[Work]) -> None:
        for item in items:
            if isinstance(item, Answer):
                item.handed.decided()

    def _give_up(self, items: Sequence[Work], error: Exception) -> None:
        """None of it was done. What lies in the database is found there again."""
        if not items:
            return
        self.stats.failures += 1
        log.warning("%d things were not done: %s", len(items), described(error))
        told = (
            error
            if isinstance(error, Unavailable)
            else Unavailable(
                f"the orchestrator's database does not take it now: {described(error)}"
            )
        )
        self._distrust(items)
        for item in items:
            if isinstance(item, Begin | Tell) and item.done is not None and not item.done.done():
                item.done.set_exception(told)
        self._settle(items)

    def _distrust(self, items: Iterable[Work]) -> None:
        """What memory has of these runs may be wrong."""
        for item in items:
            self._cached.forget(item.instance_id)
        self._outgoing.distrust({shard_for(item) for item in items})
