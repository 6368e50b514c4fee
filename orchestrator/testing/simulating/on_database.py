"""The same histories on a real database: every statement is the real one, and so is the inbox.

Only time is not: on PostgreSQL, functions of a schema that comes first in the search path stand for
its clock and its dice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.engine.ports import EnginePorts
from orchestrator.machine.instance import Instance
from orchestrator.store.commit_statements import CommitStatements
from orchestrator.store.records import record_of
from orchestrator.testing.simulating.with_inbox import ServiceWithInbox, effect, metadata
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances, Fault
from orchestrator.testing.virtual.database import away, fate_of_commit, lost
from orchestrator.testing.virtual.process import BEGIN, ProcessClock
from orchestrator.testing.virtual.service import Effect, Handlers, Service
from orchestrator.testing.virtual.storage import NoLimit, leave_signal, one_after_the_other, sleep
from orchestrator.testing.virtual.timeline import Gate, Timeline
from outbox import tables as library
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

FOR_POSTGRES = (
    "CREATE SCHEMA simulated",
    "CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS "
    "$$ SELECT CAST(current_setting('simulated.now') AS timestamptz) $$",
    "CREATE FUNCTION simulated.random() RETURNS double precision LANGUAGE sql IMMUTABLE AS "
    "$$ SELECT CAST(0 AS double precision) $$",
)
"""What a PostgreSQL database needs beside the tables. Its connections need `SEARCH_PATH`."""
_SET_NOW = text("SELECT set_config('simulated.now', :now, false)")
SEARCH_PATH = "simulated, pg_catalog, public"


class OnDatabase:
    """Everything in one database, which is emptied first: `await OnDatabase.empty(engine)`."""

    def __init__(
        self,
        database: AsyncEngine,
        timeline: Timeline,
        chances: Chances,
        registry: Registry,
        is_local: bool,
    ) -> None:
        self.is_away = False
        self.engine = _FaultyEngine(database, self, chances)
        self._database = database
        self._chances = chances
        self._timeline = timeline
        self._registry = registry
        self.is_local = is_local
        self._sessions = self._timed_sessions()
        self._effects: list[Effect] = []
        self._commands = {
            str(command.message_type): command
            for saga in registry
            for command in (*saga.actions.values(), *saga.compensations.values())
        }

    def _timed_sessions(self) -> async_sessionmaker[AsyncSession]:
        class Timed(Session):
            """A session whose transactions begin with the virtual time."""

        def set_time(_: Session, transaction: SessionTransaction, connection: Connection) -> None:
            if not transaction.nested and connection.dialect.name == "postgresql":
                connection.execute(_SET_NOW, {"now": self.now})

        event.listen(Timed, "after_begin", set_time)
        return async_sessionmaker(self._database, expire_on_commit=False, sync_session_class=Timed)

    @staticmethod
    async def empty(database: AsyncEngine) -> None:
        """Remove what an earlier history left there."""
        async with database.begin() as connection:
            for source in (metadata, tables.metadata, library.metadata):
                for table in source.sorted_tables:
                    await connection.execute(table.delete())

    def ended(self, before: str, asked_for: Collection[str]) -> EndedSagas | None:
        # The real inbox forgets nothing that is younger than a day, and no history lasts so long.
        return None

    @property
    def now(self) -> str:
        """The database's time."""
        return (BEGIN + timedelta(seconds=self._timeline.now)).isoformat()

    def retention(self, *_: Any) -> None:
        # Everything stays, since a history ends before any run is old enough.
        return None

    def ports(self, clock: ProcessClock) -> EnginePorts:
        told = clock if self.is_local else ProcessClock(self._timeline)
        ports = EnginePorts.of(self._database, self._registry, told)
        statements = _FaultyStatements(self._database, self._registry, told, self._chances)
        relay = replace(ports.relay, within=NoLimit, gather=one_after_the_other, event=Gate)
        return replace(ports, statements=statements, relay=relay, sleep=sleep)

    def service(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope, int], None],
    ) -> Service:
        async def noted(effect: Effect) -> None:
            self._effects.append(effect)
            await took_effect(effect)

        commands = [it for it in self._commands.values() if it.message_type.owner == name]
        return ServiceWithInbox(
            name, chances, handlers, clock, noted, begun, self._sessions, commands
        )

    async def tell(self, saga_id: str, shard: int, kind: str, payload: str) -> bool:
        signals = self.ports(ProcessClock(self._timeline)).signals
        return await leave_signal(self.engine, signals, saga_id, shard, kind, payload)

    async def runs(self) -> Sequence[tuple[Instance[Any], str | None]]:
        async with self._database.connect() as connection:
            rows = await connection.execute(select(tables.saga).order_by(tables.saga.c.id))
            return [
                (record_of(row, self._registry.get(row.name, row.version)).instance, row.parked)
                for row in rows
            ]

    async def aliases(self) -> Mapping[str, str]:
        alias = tables.saga_alias.c
        async with self._database.connect() as connection:
            rows = await connection.execute(select(alias.id, alias.saga_id))
            return {row.id: row.saga_id for row in rows if row.saga_id is not None}

    async def is_quiet(self) -> bool:
        signal = tables.saga_signal.c
        statements = (
            select(tables.saga.c.id).where(tables.saga.c.ended_at.is_(None)),
            select(library.outbox.c.seq),
            select(library.outbox_parked.c.seq),
            select(signal.seq).where(signal.answer.is_(None)),
        )
        async with self._database.connect() as connection:
            for statement in statements:
                if (await connection.execute(statement.limit(1))).first() is not None:
                    return False
        return True

    async def check(self) -> None:
        history, run = tables.saga_history.c, tables.saga.c
        statement = select(effect).order_by(effect.c.number)
        lines = (
            select(run.id, run.entries, func.count(history.number).label("lines"))
            .join_from(tables.saga, tables.saga_history, history.saga_id == run.id)
            .group_by(run.id, run.entries)
        )
        async with self._database.connect() as connection:
            kept = [
                Effect(row.saga_id, row.step, row.letter)
                for row in await connection.execute(statement)
            ]
            uneven = [row for row in await connection.execute(lines) if row.lines != row.entries]
        if kept != self._effects:
            raise Broken("P2", f"{self._effects} took effect, and {kept} was kept")
        if uneven:
            raise Broken("history", f"{uneven[0].lines} of {uneven[0].entries} lines were kept")


class _FaultyEngine:
    """The engine, with the accidents of a history. Not for services."""

    def __init__(self, engine: AsyncEngine, storage: OnDatabase, chances: Chances) -> None:
        self.dialect = engine.dialect
        self.sync_engine = engine.sync_engine
        self.get_execution_options = engine.get_execution_options
        self._engine = engine
        self._storage = storage
        self._chances = chances

    def execution_options(self, **options: Any) -> _FaultyEngine:
        """The same engine with these options."""
        engine = self._engine.execution_options(**options)
        return _FaultyEngine(engine, self._storage, self._chances)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """A connection, unless the database is away."""
        if self._storage.is_away:
            raise away()
        async with self._engine.connect() as connection:
            if self.dialect.name == "postgresql":
                await connection.execute(_SET_NOW, {"now": self._storage.now})
            yield _FaultyConnection(connection, self._chances)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        """A connection that commits where the block ends well."""
        async with self.connect() as connection:
            yield connection
            await connection.commit()


class _FaultyConnection:
    """A connection whose commits can go wrong."""

    def __init__(self, connection: AsyncConnection, chances: Chances) -> None:
        self.without_faults = connection
        self._chances = chances

    def __getattr__(self, name: str) -> Any:
        return getattr(self.without_faults, name)

    async def commit(self) -> None:
        """Commit, or not, or not say so."""
        match fate_of_commit(self._chances):
            case Fault.COMMIT_FAILED:
                await self.without_faults.rollback()
                raise lost()
            case Fault.COMMIT_LOST:
                await self.without_faults.commit()
                raise lost()
            case _:
                await self.without_faults.commit()


class _FaultyStatements(CommitStatements):
    """Statements of which those that are whole commits can go wrong."""

    def __init__(
        self, engine: AsyncEngine, registry: Registry, clock: ProcessClock, chances: Chances
    ) -> None:
        postgres = engine.dialect.name == "postgresql"
        super().__init__(registry, tables.PLAIN, postgres=postgres, now=clock.now)
        self._chances = chances

    async def commit_at_once(
        self, connection: Any, *arguments: Any, **options: Any
    ) -> tuple[datetime, Mapping[str, int]]:
        fate = fate_of_commit(self._chances)
        if fate is Fault.COMMIT_FAILED:
            raise lost()
        told = await super().commit_at_once(connection.without_faults, *arguments, **options)
        if fate is Fault.COMMIT_LOST:
            raise lost()
        return told
