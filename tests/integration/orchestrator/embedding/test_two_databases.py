"""Two orchestrators of one name, each in an application and a database of its own, at one
participant: it finds them, and a start anew on the same database is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

import orchestrator
import outbox
from outbox.clock import SystemClock
from outbox.inbox.purge.questions import Stopped
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.http.servers import serving
from tests.support.orchestrator.embedded import (
    TRANSFER,
    Bank,
    Ends,
    Transfer,
    add_handlers,
    bank_schema,
    transfer,
)
from tests.support.outbox.inboxes import ledger_schema
from tests.support.outbox.services import SECRETS, make_service
from tests.support.processes.waiting import until


class Later(SystemClock):
    """A clock that is set ahead, by less than what signatures allow."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.fixture
def clock() -> Later:
    return Later()


@pytest.fixture
async def remote(
    database_factory: DatabaseFactory, make_engine: MakeEngine, clock: Later
) -> AsyncIterator[tuple[outbox.Service, str]]:
    """The bank, and its address."""
    app = FastAPI()
    service = make_service(make_engine(database_factory(ledger_schema)), "bank", clock=clock)
    add_handlers(service, Ends())
    service.attach(app)
    async with app.router.lifespan_context(app), serving(app) as address:
        yield service, address


@asynccontextmanager
async def application(
    engine: AsyncEngine, service: outbox.Service, address: str
) -> AsyncIterator[Bank]:
    """An orchestrator that was left with the name that it has by itself; it has said a word."""
    app = FastAPI()
    made = orchestrator.attach(app, engine, sagas=[transfer], peers={"bank": address})
    it = Bank(app, service, made, Ends())
    async with it.running():
        await until(lambda: it.engine.settled() is not None, what="it knows what has ended")
        yield it


async def transfers(*banks: Bank) -> None:
    for it in banks:
        run = await it.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await run.wait(20)).status == "COMPLETED"


@pytest.fixture
def engine_of_one(
    database_factory: DatabaseFactory, make_engine: MakeEngine
) -> Callable[[], AsyncEngine]:
    """An engine on a new database of an application."""
    return lambda: make_engine(database_factory(bank_schema))


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)


async def test_two_applications_that_left_the_name_as_it_is_are_found(
    remote: tuple[outbox.Service, str],
    engine_of_one: Callable[[], AsyncEngine],
    clock: Later,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        application(engine_of_one(), *remote) as one,
        application(engine_of_one(), *remote) as other,
    ):
        await transfers(one, other)
        await remote[0].inbox.purge()
        assert remote[0].inbox.stopped == {}, "one may have taken the place of the other"
        clock.ahead = timedelta(minutes=2)
        await transfers(one, other)
        await remote[0].inbox.purge()
    assert remote[0].inbox.stopped == {"orchestrator": Stopped.TWO_DATABASES}
    assert "two orchestrators have the name orchestrator" in caplog.text


async def test_an_application_that_starts_anew_on_its_database_is_the_same_one(
    remote: tuple[outbox.Service, str],
    engine_of_one: Callable[[], AsyncEngine],
    clock: Later,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = engine_of_one()
    for minutes in (0, 2):
        clock.ahead = timedelta(minutes=minutes)
        async with application(engine, *remote) as one:
            await transfers(one)
            await remote[0].inbox.purge()
    assert remote[0].inbox.stopped == {}
    assert "speaks from the database" not in caplog.text
