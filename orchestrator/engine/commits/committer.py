"""The group committer: the items that have gathered while the last commit was on its way become the
next transaction.

One task commits, so the runs of a node take their steps one after the other, many at a time. A
commit promises: all of it or nothing; nothing under a lost lease; and where its outcome is unknown,
the committer finds it out before it tells any caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.engine.commits import run_log
from orchestrator.engine.commits.changes import Changes
from orchestrator.engine.commits.database_time import DatabaseTime
from orchestrator.engine.commits.ground import Ground
from orchestrator.engine.commits.items import Answer, Begin, Item, Tell, shard_for
from orchestrator.engine.commits.long_way import LongWay
from orchestrator.engine.commits.one_trip import OneTrip
from orchestrator.engine.commits.queue import CommitQueue
from orchestrator.engine.commits.recovery import NotCommitted, Recovery, halves, refusals
from orchestrator.engine.commits.run_cache import RunCache
from orchestrator.engine.ports import EnginePorts, Outgoing
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.shards import Shards
from orchestrator.engine.watchers import Watchers
from orchestrator.errors import Unavailable
from orchestrator.store.commit_statements import StaleRuns
from orchestrator.store.records import Committed
from orchestrator.store.sharding import shard_of
from outbox.clock import Clock
from outbox.coordination.progress import Progress
from outbox.crashpoints import crashpoint
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.safe_text import described

log = logging.getLogger(__name__)

_TRIES = 5
_SHORTLY = 0.05


@dataclass
class CommitterStats:
    """The counts since the start."""

    commits: int = 0
    in_one_trip: int = 0
    """Those commits that were one statement."""
    step_by_step: int = 0
    """Those that were a transaction of several statements."""
    transitions: int = 0
    stray_effects: int = 0
    late_answers: int = 0
    failures: int = 0


class Committer:
    """Commits the items of its queue, and those in the database for its shards."""

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
        progress: Progress,
    ) -> None:
        self.stats = CommitterStats()
        self._shards = shards
        self._outgoing = outgoing
        self._watchers = watchers
        self._sleep = ports.sleep
        self._committing = progress.of("commit what runs do")
        self._time = DatabaseTime(clock)
        self._cached = RunCache(settings.cached, settings.cached_bytes)
        self._recovery = Recovery(engine, ports, shards)
        ground = Ground(
            *(engine, ports, registry, shards, self._cached, self._time, self._recovery),
            ids=ids,
            settings=settings,
        )
        self._one_trip = OneTrip(ground)
        self._long_way = LongWay(ground)
        self._queue = CommitQueue(
            *(engine, ports, registry, shards, self._cached, self._time),
            clock=clock,
            settings=settings,
        )

    # For the node

    @property
    def is_full(self) -> bool:
        """Whether callers must come back later."""
        return self._queue.is_full

    @property
    def pause(self) -> float:
        """Seconds until there is an item to commit, as far as is known."""
        return self._queue.pause

    def latest(self, saga_id: str) -> Committed | None:
        """A live run as it stands in the database, where memory has it and this node owns it."""
        if shard_of(saga_id) not in self._shards.usable:
            return None
        return self._cached.committed(saga_id)

    def put(self, items: Iterable[Item]) -> None:
        """Commit these soon."""
        self._queue.put(items)

    def look(self) -> None:
        """Note that there may be items in the database."""
        self._queue.look()

    def in_trouble(self, failures: int) -> None:
        """Look at the database later, since it failed so many times in a row."""
        self._queue.look_later(failures)

    def shards_changed(self, gained: frozenset[int], lost: frozenset[int]) -> None:
        """Forget the cached runs that another node may have changed. Those of lost shards are
        forgotten when the shards come back, since a commit under way may still add to them."""
        self._cached.forget_shards(gained)
        self._queue.unpark(gained)
        self._queue.look()

    # The loop

    async def run(self, finish: asyncio.Event) -> None:
        """Commit until `finish` is set and no item is queued."""
        failures = 0
        while not (finish.is_set() and self._queue.is_empty):
            try:
                await self._queue.wait(finish)
                with self._committing:
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
        """Commit the items, as many as fit into one commit; returns their number."""
        found = await self._queue.find() if self._queue.is_time_to_look else ()
        items = self._queue.take(found)
        if items:
            await self._commit(items)
        return len(items)

    # Committing

    async def _commit(self, items: Sequence[Item]) -> None:
        """Commit the items, in one transaction if possible."""
        for attempt in range(_TRIES):
            # A divided commit is many transactions, each of which counts as work that ends.
            self._committing.moved()
            try:
                await self._transact(items)
                return
            except NotCommitted as error:
                self._give_up(items, error)
                return
            except StaleRuns:
                self._read_again(items)
            except Exception as error:
                # Nothing here talks to any service but the database.
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

    def _read_again(self, items: Iterable[Item]) -> None:
        for item in items:
            self._cached.forget(item.instance_id)

    async def _divide(self, items: Sequence[Item], error: Exception) -> None:
        """Find the run that cannot be written or meets a mistake in our code, and park it."""
        if parts := halves(items):
            for half in parts:
                await self._commit(half)
            return
        reason = await self._recovery.park(items[0].instance_id, error)
        self._give_up(items, Unavailable(reason))
        if refused := refusals(items, reason):
            await self._commit(refused)

    async def _transact(self, items: Sequence[Item]) -> None:
        epochs = self._shards.leases.epochs
        done = await self._one_trip.commit(items)
        if done is None:
            done = await self._long_way.commit(items)
            self.stats.step_by_step += 1
        else:
            self.stats.in_one_trip += 1
        if done.is_told:
            crashpoint("engine: after commit, before hand-over")
            self._committed(done.changes, done.items, epochs)
        else:
            self._distrust(done.items)
            self._announce(done.changes, done.items)
        self._give_up(done.others, Unavailable("another node owns this run by now"))

    # Afterwards

    def _committed(
        self, changes: Changes, items: Sequence[Item], epochs: Mapping[int, int]
    ) -> None:
        self.stats.commits += 1
        self.stats.transitions += changes.transitions
        self.stats.stray_effects += changes.stray_effects
        self.stats.late_answers += changes.late_answers
        self._queue.committed(changes.sizes.values())
        # If a shard was lost and gained meanwhile, another node may have worked on its runs since.
        now = self._shards.leases.epochs
        moved = {it for it in epochs.keys() | now.keys() if epochs.get(it) != now.get(it)}
        for saga_id, record in changes.records.items():
            is_latest = record.shard not in moved
            if is_latest and record.instance.ended is None and record.instance.begin_at is None:
                self._cached.keep(Committed(record, changes.now), changes.sizes[saga_id])
            else:
                # One that is to begin later is of no use until then.
                self._cached.forget(saga_id)
            if record.due_at is not None:
                self._queue.look_when_due(record.due_at)
        for saga_id in changes.parked:
            self._cached.forget(saga_id)
        if changes.withdrawn:
            self._outgoing.withdraw(frozenset(changes.withdrawn))
        self._outgoing.hand_over(changes.messages, changes.seqs)
        if moved:
            # And the couriers may have read its messages in the table already.
            self._outgoing.distrust(moved)
        self._announce(changes, items)

    def _announce(self, changes: Changes, items: Sequence[Item]) -> None:
        """Tell callers, couriers, watchers and the log what is durable now. Items that must wait
        for a later commit go back into the queue, by no other way than this."""
        for item in changes.again:
            if isinstance(item, Begin) and item.tries >= _TRIES:
                error = Unavailable("another run with this key kept starting first")
                self._give_up([item], error)
            else:
                self._queue.put_again(item)
        changes.resolve()
        self._settle([item for item in items if item not in changes.again])
        ended = {it: Committed(changes.records[it], changes.now) for it in changes.ended}
        self._watchers.tell(changes.records, ended=ended)
        self._watchers.tell_stuck(changes.stuck)
        run_log.tell(changes.news)

    def _settle(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Answer):
                item.handed.decided()

    def _give_up(self, items: Sequence[Item], error: Exception) -> None:
        """Give the items up, none of which was committed. Those in the database are found there
        again."""
        if not items:
            return
        self.stats.failures += 1
        log.warning("%d queued items were not committed: %s", len(items), described(error))
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

    def _distrust(self, items: Iterable[Item]) -> None:
        """Forget what memory has of these runs, which may be wrong."""
        for item in items:
            self._cached.forget(item.instance_id)
        self._outgoing.distrust({shard_for(item) for item in items})
