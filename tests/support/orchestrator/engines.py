"""An engine on a test's database, with participants in the same process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.definition.saga import Saga
from orchestrator.engine.engine import Engine
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.settings import EngineSettings
from orchestrator.engine.watchers import OnStuck
from orchestrator.machine.instance import Status
from orchestrator.store.sharding import LEASED_AS, SHARDS
from outbox import tables as library
from outbox.clock import Clock, SystemClock
from outbox.contract import Void
from outbox.coordination.bell import Bell
from outbox.database.engines import reading
from outbox.database.opening import Database
from outbox.ids import Ids
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome, Reply
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.transports.base import Answered, Delivery, Transport, Unreachable
from outbox.wire.codec import decode
from outbox.wire.envelope import Envelope
from tests.support.processes.waiting import until

VOID = str(Void.message_type)
QUICK = RelaySettings(lease=60.0, margin=1.0, delivery_timeout=0.8, poll=0.2)
"""A process that stands still for a while loses no lease, and no transaction either: PostgreSQL
ends one that rests for a quarter of the lease."""


def orchestrator_tables(connection: Connection) -> None:
    """All that an orchestrator's database has."""
    library.metadata.create_all(connection)
    tables.metadata.create_all(connection)


def opened(engine: AsyncEngine, names: Tables = DEFAULT_TABLES) -> Database:
    """The engine in the three forms that a service uses, on tables with these names."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    return Database(engine, sessions, reading(engine), names)


class Scripted:
    """A participant that says DONE, or what the test put into `replies` for a type of command; to a
    void, that nothing has come.

    `seen` has every envelope that arrived, in its order.
    """

    def __init__(self) -> None:
        self.seen: list[Envelope] = []
        self.replies: dict[str, Reply] = {}
        self.values: dict[str, Any] = {}
        self.refusals = 0
        """How many further requests find no participant there."""
        self.why = "no service listens"
        """What these are told."""
        self._is_there = asyncio.Event()
        self._is_there.set()

    @property
    def is_away(self) -> bool:
        """Whether it lets everybody wait for its answers."""
        return not self._is_there.is_set()

    @is_away.setter
    def is_away(self, away: bool) -> None:
        if away:
            self._is_there.clear()
        else:
            self._is_there.set()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Answer all of them."""
        await self._is_there.wait()
        if self.refusals:
            self.refusals -= 1
            return Unreachable(self.why, sent=False)
        self.seen += envelopes
        return Answered([self._reply(it) for it in envelopes])

    async def aclose(self) -> None:
        """Nothing to close."""

    def types(self) -> list[str]:
        """The types of what arrived."""
        return [it.type for it in self.seen]

    def _reply(self, envelope: Envelope) -> Reply:
        if envelope.type == VOID and VOID not in self.replies:
            ids = decode(Void, envelope.data).ids
            return Reply(Outcome.DONE, value={id: {"state": "absent"} for id in ids})
        default = Reply(Outcome.DONE, value=self.values.get(envelope.type))
        return self.replies.get(envelope.type, default)


class Node:
    """A running engine."""

    def __init__(self, engine: Engine, database: Database, bell: Bell) -> None:
        self.engine = engine
        self.database = database
        self.bell = bell

    async def status(self, saga_id: str) -> str:
        """How the run stands in the database."""
        saga = tables.saga_tables(self.database.tables).saga
        async with self.database.reading.connect() as connection:
            found = await connection.scalar(select(saga.c.status).where(saga.c.id == saga_id))
        return str(found)

    async def until_status(self, saga_id: str, *wanted: Status, deadline: float = 20) -> str:
        """Wait until it stands like this."""

        async def reached() -> bool:
            return await self.status(saga_id) in wanted

        await until(reached, deadline=deadline, what=f"{saga_id} is {wanted}")
        return await self.status(saga_id)

    async def rows(self, table: Any) -> Sequence[Any]:
        """Everything in a table."""
        async with self.database.reading.connect() as connection:
            return (await connection.execute(select(table))).all()


@asynccontextmanager
async def running(
    engine: AsyncEngine,
    sagas: Sequence[Saga[Any]],
    transports: Mapping[str, Transport],
    *,
    clock: Clock | None = None,
    settings: EngineSettings | None = None,
    owner: str = "orchestrator",
    on_stuck: OnStuck | None = None,
    names: Tables = DEFAULT_TABLES,
) -> AsyncIterator[Node]:
    """A node that works until the end of the block, and is stopped properly."""
    clock = clock or SystemClock()
    database, bell = opened(engine, names), Bell()
    node = Engine(
        database,
        Registry(sagas, dict.fromkeys(transports, "http://127.0.0.1:1")),
        transports,
        clock=clock,
        ids=Ids(clock, os.urandom),
        bell=bell,
        settings=settings or EngineSettings(relay=QUICK),
        owner=owner,
        on_stuck=on_stuck,
    )
    await node.check_start()
    stop = asyncio.Event()
    task = asyncio.create_task(node.run(stop))
    try:

        async def has_shards() -> bool:
            return bool(node.shards)

        await until(has_shards, deadline=10, what="the node has shards")
        yield Node(node, database, bell)
    finally:
        stop.set()
        await task


@asynccontextmanager
async def two_running(
    engines: Sequence[AsyncEngine],
    sagas: Sequence[Saga[Any]],
    transports: Mapping[str, Transport],
    *,
    settings: EngineSettings | None = None,
) -> AsyncIterator[list[Node]]:
    """Two nodes of one PostgreSQL, each with its engine and half of the shards."""
    settings = settings or EngineSettings(relay=QUICK)
    async with AsyncExitStack() as stack:
        nodes = [
            running(it, sagas, transports, settings=settings, owner=f"node-{number}")
            for number, it in enumerate(engines)
        ]
        async with half_taken(engines[0], settings.relay):
            first = await stack.enter_async_context(nodes[0])
        started = [first, await stack.enter_async_context(nodes[1])]
        await until(
            lambda: all(len(it.engine.shards) == len(SHARDS) // 2 for it in started),
            deadline=20,
            what="the shards are shared out evenly",
        )
        yield started


@asynccontextmanager
async def half_taken(engine: AsyncEngine, relay: RelaySettings) -> AsyncIterator[None]:
    """Within the block another node has half of the shards. It leaves them to the one that comes
    next, which so needs no time until it has its share, however long the leases are."""
    clock, ttl = SystemClock(), timedelta(seconds=relay.lease)
    leases = EnginePorts.of(engine, Registry([], {}), clock).relay.leases
    half = SHARDS[: len(SHARDS) // 2]
    async with engine.begin() as connection:
        await leases.announce(connection, "another", [LEASED_AS], ttl)
        await leases.make_leases(connection, LEASED_AS, half)
        await leases.claim(connection, "another", LEASED_AS, most=len(half), ttl=ttl)
    yield
    async with engine.begin() as connection:
        await leases.leave(connection, "another")
