"""The same histories on a real database: every statement is the real one, and so is the inbox.

Only time is not: on PostgreSQL, functions of a schema that comes first in the search path stand for
its clock and its dice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Column,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.engine.ports import EnginePorts
from orchestrator.machine.instance import Instance
from orchestrator.store.records import record_of
from orchestrator.testing.virtual.broken import Broken
from orchestrator.testing.virtual.chances import Chances, Fault
from orchestrator.testing.virtual.database import away, fate_of_commit, lost
from orchestrator.testing.virtual.process import BEGIN, ProcessClock
from orchestrator.testing.virtual.service import DONE, Effect, Handlers, Service, Told
from orchestrator.testing.virtual.storage import NoLimit, leave_signal, one_after_the_other, sleep
from orchestrator.testing.virtual.timeline import Gate, Timeline
from outbox import Context, Locked, Ongoing, Pending, Refused
from outbox import Handlers as Consumer
from outbox import tables as library
from outbox.errors import AlreadyAnswered, TooLate
from outbox.inbox.barrier import State
from outbox.inbox.batches import Slot
from outbox.inbox.inbox import Inbox
from outbox.inbox.pending.complete import complete
from outbox.inbox.transactions import store
from outbox.messages import Command, reply_type
from outbox.replies import Outcome, Reply
from outbox.wire.codec import decode_value
from outbox.wire.envelope import Envelope

metadata = MetaData()
effect = Table(
    "simulated_effect",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("service", String(100), nullable=False),
    Column("saga_id", String(36), nullable=False),
    Column("step", String(100), nullable=False),
    Column("letter", String(1), nullable=False),
)
"""What handlers wrote, in the transactions of the inbox."""

FOR_POSTGRES = (
    "CREATE SCHEMA simulated",
    "CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS "
    "$$ SELECT CAST(current_setting('simulated.now') AS timestamptz) $$",
    "CREATE FUNCTION simulated.random() RETURNS double precision LANGUAGE sql IMMUTABLE AS "
    "$$ SELECT CAST(0 AS double precision) $$",
)
"""What a PostgreSQL database needs beside the tables. Its connections need `SEARCH_PATH`."""
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
        self._timeline = timeline
        self._registry = registry
        self.is_local = is_local
        self._sessions = async_sessionmaker(database, expire_on_commit=False)
        self._effects: list[Effect] = []
        self._commands = {
            str(command.message_type): command
            for saga in registry
            for command in (*saga.actions.values(), *saga.compensations.values())
        }

    @staticmethod
    async def empty(database: AsyncEngine) -> None:
        """Remove what an earlier history left there."""
        async with database.begin() as connection:
            for source in (metadata, tables.metadata, library.metadata):
                for table in source.sorted_tables:
                    await connection.execute(table.delete())

    @property
    def now(self) -> str:
        """The database's time."""
        return (BEGIN + timedelta(seconds=self._timeline.now)).isoformat()

    def ports(self, clock: ProcessClock) -> EnginePorts:
        told = clock if self.is_local else ProcessClock(self._timeline)
        ports = EnginePorts.of(self._database, self._registry, told)
        relay = replace(ports.relay, within=NoLimit, gather=one_after_the_other)
        return replace(ports, relay=relay, sleep=sleep, event=Gate)

    def service(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope], None],
    ) -> Service:
        async def noted(effect: Effect) -> None:
            self._effects.append(effect)
            await took_effect(effect)

        commands = [it for it in self._commands.values() if it.message_type.owner == name]
        return _WithInbox(name, chances, handlers, clock, noted, begun, self._sessions, commands)

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
                await connection.execute(
                    text("SELECT set_config('simulated.now', :now, false)"),
                    {"now": self._storage.now},
                )
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
        self._connection = connection
        self._chances = chances

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def commit(self) -> None:
        """Commit, or not, or not say so."""
        match fate_of_commit(self._chances):
            case Fault.COMMIT_FAILED:
                await self._connection.rollback()
                raise lost()
            case Fault.COMMIT_LOST:
                await self._connection.commit()
                raise lost()
            case _:
                await self._connection.commit()


class _WithInbox(Service):
    """A participant with the real inbox on the database."""

    def __init__(
        self,
        name: str,
        chances: Chances,
        handlers: Handlers,
        clock: ProcessClock,
        took_effect: Callable[[Effect], Awaitable[None]],
        begun: Callable[[Service, Envelope], None],
        sessions: async_sessionmaker[AsyncSession],
        commands: Sequence[type[Command[Any]]],
    ) -> None:
        super().__init__(name, chances, handlers, clock.now, took_effect, begun)
        consumer = Consumer(name)
        for command in commands:
            consumer.on(command)(self._handle)
        self._types = {str(it.message_type): it for it in commands}
        self._consumer = consumer
        self._sessions = sessions
        self._inbox = Inbox(consumer, sessions, clock=clock)
        self._slot: Slot | None = None
        self._decided: Reply | None = None

    async def _transact(self, slot: Slot) -> Reply:
        envelope = slot.arrival.envelope
        self._slot, self._decided = slot, None
        # Without a name to reply to, since answers that are messages have a virtual way here.
        (reply,) = await self._inbox.receive([replace(envelope, reply_to=None)])
        decided = self._decided
        if decided is not None and (decided.outcome is Outcome.DONE or decided.is_pending):
            await self._note(envelope, decided)
            if decided.is_pending:
                self._begun(self, envelope)
        return reply

    async def complete(self, envelope: Envelope, reply: Reply) -> Told:
        try:
            async with self._sessions.begin() as session:
                stored = await session.run_sync(self._completed, envelope, reply)
        except TooLate:
            return ()
        except AlreadyAnswered as error:
            raise Broken("P2, P3", f"nothing but this completes it: {error.problem}") from error
        if stored is None:
            return ()
        await self._note(envelope, stored)
        return [(envelope.id, stored)]

    def _completed(self, session: Session, envelope: Envelope, reply: Reply) -> Reply | None:
        """Complete it, and write what that means; the answer as it is stored, None where it was
        answered before."""
        known = store.read(session, self.name, [envelope.id], lock=False)[envelope.id].state
        answer = _given(reply, self._types[envelope.type])
        complete(session, self._consumer, {envelope.id: answer}, self._now())
        if known is not State.PENDING:
            return None
        stored = store.read(session, self.name, [envelope.id], lock=False)[envelope.id].reply
        session.execute(self._written(envelope, stored or DONE))
        return stored or DONE

    def _written(self, envelope: Envelope, reply: Reply) -> Insert:
        """The statement that writes what the answer means; that it was done, where it means that
        nothing took effect."""
        done = Effect.of(envelope, reply) or Effect.of(envelope, DONE)
        assert done is not None
        return insert(effect).values(
            service=self.name, saga_id=done.saga_id, step=done.step, letter=done.letter
        )

    async def _handle(self, session: AsyncSession, message: Command[Any], _: Context) -> Any:
        assert self._slot is not None
        envelope = self._slot.arrival.envelope
        # The inbox may call it twice for one attempt: in the batch, then alone.
        decided = self._decided = self._decided or self._handlers.run(envelope)
        # Written in any case: where nothing took effect, the inbox has to take it back.
        await session.execute(self._written(envelope, decided))
        return _given(decided, type(message))


def _given(reply: Reply, command: type[Command[Any]]) -> Any:
    """What a handler returns to answer so."""
    match reply.outcome:
        case Outcome.DONE:
            return None if reply.value is None else decode_value(reply_type(command), reply.value)
        case Outcome.REFUSED:
            return Refused("refused", "the rules say no")
        case Outcome.LOCKED:
            return Locked("another operation has it")
        case Outcome.ONGOING if reply.is_pending:
            return Pending("a person decides")
        case Outcome.ONGOING:
            return Ongoing(retry_after=1.0)
        case _:
            raise RuntimeError("the handler raised an error")
