"""The orchestrator's database in a world: the real tables and the real statements, on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.ports import EnginePorts
from orchestrator.machine.instance import Instance, Status, StepStatus
from orchestrator.store.records import record_of
from orchestrator.store.sharding import shard_of
from orchestrator.testing.virtual.process import ProcessClock
from orchestrator.testing.virtual.storage import NoLimit, one_after_the_other, sleep
from orchestrator.testing.virtual.timeline import Gate
from orchestrator.testing.worlds.participants.database import Database
from orchestrator.testing.worlds.run import pending_in
from outbox import sqlite
from outbox import tables as library
from outbox.clock import Clock

_UNDER_WAY = (StepStatus.SENT, StepStatus.IN_DOUBT, StepStatus.UNDOING)


class Books:
    """The orchestrator's database. Its process works with `engine` and `ports`."""

    is_local = True
    """Only one process may open a SQLite database, so that an older one is surely dead."""

    def __init__(self, database: Database, registry: Registry, clock: Clock) -> None:
        database.create(library.metadata, tables.metadata)
        self.engine = database.engine
        # A plain connection answers much sooner than one that has a thread of its own.
        self._reading = database.plain.execution_options(**sqlite.READ_ONLY)
        self.registry = registry
        self._clock = clock

    def ports(self, clock: ProcessClock) -> EnginePorts:
        """The statements of the orchestrator, in virtual time."""
        ports = EnginePorts.of(self.engine, self.registry, clock)
        relay = replace(ports.relay, within=NoLimit, gather=one_after_the_other, event=Gate)
        return replace(ports, relay=relay, sleep=sleep)

    def retention(self, *_: Any) -> None:
        """All runs stay."""

    async def tell(self, saga_id: str, kind: str, payload: str) -> None:
        """Leave a signal for a run."""
        signals = EnginePorts.of(self.engine, self.registry, self._clock).signals
        async with self.engine.begin() as connection:
            await signals.add(connection, [(saga_id, shard_of(saga_id), kind, payload)])

    def run_of(self, start: str) -> str | None:
        """The id of the run that a start led to, which may be an older one; None before the start
        is taken in. Raises ValueError where it was declined."""
        alias, run = tables.saga_alias.c, tables.saga.c
        with self._reading.connect() as connection:
            found = connection.scalar(select(run.id).where(run.id == start))
            if found is not None:
                return str(found)
            row = connection.execute(
                select(alias.saga_id, alias.reason).where(alias.id == start)
            ).one_or_none()
        if row is None:
            return None
        if row.saga_id is None:
            raise ValueError(f"the orchestrator declined this run: {row.reason}")
        return str(row.saga_id)

    def instance(self, saga_id: str) -> tuple[Instance[Any], str | None]:
        """The run, and the reason why it is parked, if any."""
        with self._reading.connect() as connection:
            row = connection.execute(select(tables.saga).where(tables.saga.c.id == saga_id)).one()
        return record_of(row, self.registry.get(row.name, row.version)).instance, row.parked

    def history(self, saga_id: str) -> list[Any]:
        """The lines of its history, the oldest first."""
        history = tables.saga_history.c
        with self._reading.connect() as connection:
            found = connection.execute(
                select(tables.saga_history)
                .where(history.saga_id == saga_id)
                .order_by(history.number)
            )
            return list(found)

    def has_buried(self, id: str) -> bool:
        """Whether that message is a dead letter."""
        statement = select(library.outbox_dead.c.id).where(library.outbox_dead.c.id == id)
        with self._reading.connect() as connection:
            return connection.execute(statement).first() is not None

    def is_at_rest(self, saga_id: str, is_pending: Callable[[str], bool]) -> bool:
        """Whether nothing happens any more without a signal from outside, or an answer to a command
        of which `is_pending` says that it waits for a test."""
        signal = tables.saga_signal.c
        waiting = (
            select(library.outbox.c.seq),
            select(library.outbox_parked.c.seq),
            select(signal.seq).where(signal.answer.is_(None)),
        )
        run = select(tables.saga).where(tables.saga.c.id == saga_id)
        with self._reading.connect() as connection:
            row = connection.execute(run).one_or_none()
            if row is None:
                return False
            if row.parked is not None:
                return True
            for statement in waiting:
                if connection.execute(statement.limit(1)).first() is not None:
                    return False
        instance = record_of(row, self.registry.get(row.name, row.version)).instance
        return instance.ended is not None or _stands_still(instance, is_pending)


def _stands_still(instance: Instance[Any], is_pending: Callable[[str], bool]) -> bool:
    """Whether an operator or an answer is needed, and nothing goes on meanwhile."""
    pending = pending_in(instance)
    under_way = [
        name
        for name, it in instance.steps.items()
        if it.awaited is not None and it.status in _UNDER_WAY
    ]
    if not under_way:
        return instance.status is Status.STUCK
    return all(name in pending and is_pending(pending[name]) for name in under_way)


def registry_of(saga: Saga[Any], names: frozenset[str]) -> Registry:
    """The registry that knows this saga alone, and these services."""
    return Registry([saga], dict.fromkeys(names, ""))
