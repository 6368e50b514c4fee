"""A starter, an orchestrator and two participants over months, in which all of them purge: a run
that begins 45 days after it was asked for, and one that takes 45 days to end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.engine.engine import Engine
from orchestrator.engine.settings import EngineSettings
from orchestrator.handlers import add_handlers
from outbox import Context, Handlers, Inbox, Ongoing, Relay, add, install
from outbox import tables as library
from outbox.contract import SagaEnded, StartSaga
from outbox.coordination.bell import Bell
from outbox.dead_letters import list_dead
from outbox.ids import Ids
from outbox.testing import FakeClock
from outbox.transports.memory import MemoryTransport
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import SCHEMAS
from tests.support.databases.in_time import engine_in_time, in_time
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.engines import opened, orchestrator_tables
from tests.support.orchestrator.stepping import go_on
from tests.support.orchestrator.trips import CHARGE, ROOM, Charge, ReserveRoom, trip

DAY = timedelta(days=1)
ROOM_AND_CHARGE = trip(ROOM, CHARGE)
SERVICE, ORCHESTRATOR = in_time(SCHEMAS["outbox"]), in_time(orchestrator_tables)


class Service:
    """A service with an inbox, and an outbox of which it may make use."""

    def __init__(self, name: str, engine: AsyncEngine, clock: FakeClock) -> None:
        self.engine = engine
        self.sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.ids = Ids(clock, os.urandom)
        install(self.sessions, source=name, routes={}, clock=clock, ids=self.ids)
        self.handlers = Handlers(name)
        self.inbox = Inbox(self.handlers, self.sessions, clock=clock)

    async def remembered(self) -> int:
        """The messages that its inbox remembers."""
        async with self.engine.connect() as connection:
            return len((await connection.execute(select(library.inbox.c.id))).all())

    async def dead(self) -> list[str]:
        """Why it gave messages up."""
        async with self.engine.connect() as connection:
            return [it.reason for it in (await list_dead(connection)).items]


class Months:
    """All of them, and the days that pass."""

    def __init__(self, clock: FakeClock, engines: dict[str, AsyncEngine]) -> None:
        self.clock = clock
        self.shop, self.hotels, self.payments, self.orchestrator = (
            Service(name, engines[name], clock) for name in engines
        )
        self.ended: list[SagaEnded] = []
        self.charges_wait: set[str] = set()
        """The trips that payments goes on working on."""
        self._listen()
        settings = EngineSettings()
        of_orchestrator = self.orchestrator
        add_handlers(of_orchestrator.handlers, clock, unsettled=settings.unsettled)
        ways = {
            name: MemoryTransport(it.inbox.receive, settled=self._settled)
            for name, it in (
                ("shop", self.shop),
                ("hotels", self.hotels),
                ("payments", self.payments),
            )
        }
        self._engine = Engine(
            opened(engines["orchestrator"]),
            Registry([ROOM_AND_CHARGE], dict.fromkeys(ways, "http://127.0.0.1:1")),
            ways,
            clock=clock,
            ids=self.orchestrator.ids,
            bell=Bell(),
            settings=settings,
            owner="orchestrator",
        )
        self._relay = Relay(
            self.shop.engine,
            {"orchestrator": MemoryTransport(of_orchestrator.inbox.receive)},
            owner="shop",
            clock=clock,
        )

    def _settled(self) -> EndedSagas | None:
        return self._engine.settled()

    def _listen(self) -> None:
        @self.shop.handlers.on(SagaEnded)
        async def note(_: AsyncSession, event: SagaEnded, __: Context) -> None:
            self.ended.append(event)

        @self.hotels.handlers.on(ReserveRoom)
        async def reserve(_: AsyncSession, __: ReserveRoom, ___: Context) -> None:
            pass

        @self.payments.handlers.on(Charge)
        async def charge(_: AsyncSession, command: Charge, __: Context) -> Ongoing | None:
            return Ongoing(retry_after=3600) if command.trip in self.charges_wait else None

    async def start(self, name: str, after: timedelta | None = None) -> str:
        """Ask for a trip in a transaction of the shop, perhaps for later."""
        run = self.shop.ids()
        begin_at = None if after is None else self.clock.now() + after
        async with self.shop.sessions.begin() as session:
            add(session, StartSaga("book-trip", {"trip": name}, run, begin_at))
        return run

    async def pass_days(self, days: int) -> None:
        """Every third day a trip comes and goes, and all purge."""
        for _ in range(0, days, 3):
            await self.start(f"of {self.clock.now():%j}")
            for _ in range(2):
                await self._relay.run_once()
                await go_on(self._engine._node)
            await self._engine._keep_house()
            for each in (self.shop, self.hotels, self.payments, self.orchestrator):
                await each.inbox.purge()
            self.clock.advance((3 * DAY).total_seconds())

    async def status(self, run: str) -> str | None:
        async with self.orchestrator.engine.connect() as connection:
            query = select(tables.saga.c.status).where(tables.saga.c.id == run)
            return (await connection.execute(query)).scalar_one_or_none()

    def told(self, run: str) -> list[str]:
        return [it.status for it in self.ended if it.instance_id == run]


@pytest.fixture
async def months(database_factory: DatabaseFactory) -> AsyncIterator[Months]:
    clock = FakeClock()
    schemas = dict.fromkeys(("shop", "hotels", "payments"), SERVICE)
    async with AsyncExitStack() as stack:
        engines = {
            name: await stack.enter_async_context(engine_in_time(database_factory(schema), clock))
            for name, schema in {**schemas, "orchestrator": ORCHESTRATOR}.items()
        }
        yield Months(clock, engines)


async def check_that_all_purged(months: Months) -> None:
    """What is older than a month is forgotten everywhere, and nothing died."""
    for each in (months.shop, months.hotels, months.payments, months.orchestrator):
        assert 9 <= await each.remembered() <= 14
        assert await each.dead() == []


async def test_a_run_that_is_asked_for_45_days_ahead_completes_while_all_purge(
    months: Months,
) -> None:
    run = await months.start("far away", after=45 * DAY)
    await months.pass_days(45)
    assert (await months.status(run), months.told(run)) == ("SCHEDULED", [])
    await months.pass_days(3)
    assert (await months.status(run), months.told(run)) == ("COMPLETED", ["COMPLETED"])
    await months.pass_days(42)
    await check_that_all_purged(months)
    assert months.told(run) == ["COMPLETED"]


async def test_the_end_of_a_run_that_took_45_days_reaches_its_starter_while_all_purge(
    months: Months,
) -> None:
    months.charges_wait.add("slow")
    run = await months.start("slow")
    await months.pass_days(45)
    assert (await months.status(run), months.told(run)) == ("RUNNING", [])
    months.charges_wait.clear()
    await months.pass_days(3)
    assert (await months.status(run), months.told(run)) == ("COMPLETED", ["COMPLETED"])
    await months.pass_days(42)
    await check_that_all_purged(months)
