"""Where a history keeps what survives a process: the tables of the orchestrator, and the services.

`Storage` is what a world asks; `InMemory` is the fast one. The other ones are real databases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol

from orchestrator.definition.registry import Registry
from orchestrator.engine.ports import EnginePorts
from orchestrator.machine.instance import Instance
from orchestrator.retention.worker import Retention
from orchestrator.store.signal_store import SignalStore
from orchestrator.testing.virtual.chances import Chances, Number
from orchestrator.testing.virtual.commit_tables import VirtualCommitStatements
from orchestrator.testing.virtual.database import Database, Engine
from orchestrator.testing.virtual.process import BEGIN, ProcessClock
from orchestrator.testing.virtual.relay_tables import VirtualHolds, VirtualLeases, VirtualMessages
from orchestrator.testing.virtual.removal import (
    VirtualRetention,
    archive_in_memory,
    check_removed,
)
from orchestrator.testing.virtual.saga_tables import VirtualRuns, VirtualSignals, VirtualStarts
from orchestrator.testing.virtual.service import Effect, Handlers, Service
from orchestrator.testing.virtual.timeline import Gate, Timeline, Wait
from outbox.errors import TransactionLost
from outbox.relay.ports import RelayPorts
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

_SHARE_OF_POSTGRES = 0.4
_AGE = timedelta(seconds=1)
"""From the end of a run to its removal."""


class Storage(Protocol):
    """What survives."""

    engine: Any
    is_away: bool
    is_local: bool
    """Whether one process alone may use it: then its time is that of the process, unless it has
    one of its own."""

    def ended(self, before: str, asked_for: Collection[str]) -> EndedSagas | None:
        """Which runs with a number below that one have ended for good; None where it is not told.
        Those with one of the ids `asked_for` may still begin."""

    def ports(self, clock: ProcessClock) -> EnginePorts:
        """The orchestrator's statements, for a process with that clock."""

    def service(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope, int], None],
    ) -> Service:
        """A participant."""

    def retention(
        self, clock: ProcessClock, ids: Callable[[], str], owner: str
    ) -> Retention | None:
        """The removal of runs that have ended, for a process with that clock; None where all runs
        stay."""

    async def tell(self, saga_id: str, shard: int, kind: str, payload: str) -> bool:
        """Leave a signal for a run; false where the database did not take it."""

    async def runs(self) -> Sequence[tuple[Instance[Any], str | None]]:
        """All runs, also those that were removed, each with the reason why it is parked."""

    async def aliases(self) -> Mapping[str, str]:
        """Which run other starts stand for."""

    async def is_quiet(self) -> bool:
        """Whether no run is open and nothing is to be sent or applied."""

    async def check(self) -> None:
        """Raises Broken where the tables contradict themselves."""


class NoLimit(AbstractAsyncContextManager[None]):
    """Stands for `asyncio.timeout`: the network keeps to its own time."""

    def __init__(self, _seconds: float) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


async def one_after_the_other(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """A history has one thing at a time."""
    try:
        for each in coroutines:
            await each
    finally:
        for each in coroutines:
            each.close()


async def leave_signal(
    engine: Any, signals: SignalStore, saga_id: str, shard: int, kind: str, payload: str
) -> bool:
    """Add that signal in a transaction of its own; false where its commit failed."""
    try:
        async with engine.begin() as connection:
            await signals.add(connection, [(saga_id, shard, kind, payload)])
    except TransactionLost:
        return False
    return True


async def sleep(seconds: float) -> None:
    """In virtual time."""
    await Wait(seconds)


class InMemory:
    """Everything in dicts."""

    is_postgres: bool | None = None
    """Whether it is like PostgreSQL, which has a time of its own and commits in one statement, or
    like SQLite; else chance decides where one process alone uses it, and others need PostgreSQL."""

    def __init__(
        self, timeline: Timeline, chances: Chances, registry: Registry, is_local: bool
    ) -> None:
        is_postgres = not is_local or chances.number(Number.DATABASE) < _SHARE_OF_POSTGRES
        self._fit_in_one = is_postgres if self.is_postgres is None else self.is_postgres
        self._has_own_time = self._fit_in_one or not is_local
        self._database = Database(chances)
        self.engine = Engine(self._database)
        self._timeline = timeline
        self._chances = chances
        self._registry = registry
        self.is_local = is_local
        self._archive = archive_in_memory()

    def ended(self, before: str, asked_for: Collection[str]) -> EndedSagas | None:
        runs, gone = self._database.tables.runs, self._database.tables.gone
        open_runs = [it for it in runs.values() if it.instance.ended is None]
        live = {id for id in asked_for if id not in runs and id not in gone}
        live |= {id for it in open_runs for id in (it.instance.id, it.number) if id is not None}
        return EndedSagas(before, frozenset(live))

    @property
    def is_away(self) -> bool:
        return self._database.is_away

    @is_away.setter
    def is_away(self, value: bool) -> None:
        self._database.is_away = value

    def ports(self, clock: ProcessClock) -> EnginePorts:
        # A database that only one process may open has that one's time.
        now = self._now if self._has_own_time else clock.now
        return EnginePorts(
            VirtualRuns(self._registry, now),
            VirtualStarts(),
            VirtualSignals(),
            VirtualCommitStatements(self._registry, now, fit_in_one=self._fit_in_one),
            RelayPorts(
                VirtualMessages(now),
                VirtualHolds(now),
                VirtualLeases(now),
                within=NoLimit,
                gather=one_after_the_other,
                event=Gate,
            ),
            sleep=sleep,
        )

    def retention(
        self, clock: ProcessClock, ids: Callable[[], str], owner: str
    ) -> Retention | None:
        return VirtualRetention(
            *(self.engine, self._archive, _AGE, clock),
            now=self._now if self._has_own_time else clock.now,
            ids=ids,
            sleep=sleep,
            owner=owner,
        )

    def _now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._timeline.now)

    def service(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope, int], None],
    ) -> Service:
        time = self._now if self.is_postgres else clock.now
        return Service(name, chances, handlers, clock.now, took_effect, begun, time)

    async def tell(self, saga_id: str, shard: int, kind: str, payload: str) -> bool:
        return await leave_signal(self.engine, VirtualSignals(), saga_id, shard, kind, payload)

    async def runs(self) -> Sequence[tuple[Instance[Any], str | None]]:
        tables = self._database.tables
        there = [
            (it.instance, tables.parked_runs.get(saga_id))
            for saga_id, it in sorted(tables.runs.items())
        ]
        return [*there, *((it.record.instance, None) for it in tables.gone.values())]

    async def aliases(self) -> Mapping[str, str]:
        return {
            alias: it["saga_id"]
            for alias, it in self._database.tables.aliases.items()
            if it["saga_id"] is not None
        }

    async def is_quiet(self) -> bool:
        tables = self._database.tables
        if tables.outbox or tables.parked or tables.signals:
            return False
        return all(it.instance.ended is not None for it in tables.runs.values())

    async def check(self) -> None:
        tables = self._database.tables
        for saga_id, record in tables.runs.items():
            lines = sum(it == saga_id for it, _ in tables.history)
            assert lines == record.entries, (saga_id, lines, record.entries)
        check_removed(tables, self._archive)
