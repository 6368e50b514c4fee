"""Services of one process: their messages go from one to the other within it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox.tables import outbox as outbox_table
from outbox.transports import InProcessTransport, Unreachable
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.outbox.inboxes import Book, Booked, Noted, envelope, ledger_schema
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import BUSY, until

pytestmark = pytest.mark.databases("sqlite")
AN_ID = "0190a000-0000-7000-8000-000000000001"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def other(database_factory: DatabaseFactory, make_engine: MakeEngine) -> AsyncEngine:
    return make_engine(database_factory(ledger_schema))


class Press:
    """The press, which hears of bookings."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.service = make_service(engine, "press", secrets="")
        self.heard: list[str] = []

        @self.service.on(Noted)
        async def hear(_: AsyncSession, noted: Noted, _context: outbox.Context) -> None:
            self.heard.append(noted.entry)


async def tell(till: outbox.Service, entry: str) -> None:
    async with till.sessions.begin() as session:
        outbox.add(session, Noted("ada", entry), to="press")


async def unsent(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return len((await connection.scalars(select(outbox_table.c.seq))).all())


async def test_a_message_to_a_neighbour_needs_no_address_and_no_signing_keys(
    engine: AsyncEngine, other: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)
    till, press = make_service(engine, secrets=None), Press(other)
    till.reach(press.service)
    async with till.running(), press.service.running():
        await tell(till, "one")
        await until(lambda: press.heard, what="the press hears of it")
    assert press.heard == ["one"]
    assert await unsent(engine) == 0


async def test_a_neighbour_that_does_not_run_gets_its_messages_when_it_does(
    engine: AsyncEngine, other: AsyncEngine
) -> None:
    till, press = make_service(engine), Press(other)
    till.reach(press.service)
    async with AsyncExitStack() as later, till.running():
        await tell(till, "one")
        direct = InProcessTransport(press.service)
        delivery = await direct.deliver([envelope(AN_ID, Book("ada", "x"))])
        assert isinstance(delivery, Unreachable)
        assert not delivery.sent
        await later.enter_async_context(press.service.running())
        await until(lambda: press.heard, what="the press hears of it")
    assert press.heard == ["one"]


async def test_what_a_neighbour_took_goes_on_when_the_sender_waits_no_more(
    engine: AsyncEngine,
) -> None:
    bank = make_service(engine, "bank")
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @bank.on(Book)
    async def book(_session: AsyncSession, _command: Book, _: outbox.Context) -> Booked:
        begun.set()
        await may_end.wait()
        ended.set()
        return Booked(1)

    way = InProcessTransport(bank)
    async with bank.running():
        delivery = asyncio.create_task(way.deliver([envelope(AN_ID, Book("ada", "one"))]))
        await asyncio.wait_for(begun.wait(), 10 * BUSY)
        delivery.cancel()
        await asyncio.wait({delivery})
        assert delivery.cancelled()
        may_end.set()
        await asyncio.wait_for(ended.wait(), 10 * BUSY)
        (reply,) = await bank.inbox.receive([envelope(AN_ID, Book("ada", "one"))])
    assert reply.outcome is outbox.Outcome.DONE


async def test_the_purge_knows_of_a_way_that_was_added_after_the_inbox_was_used(
    engine: AsyncEngine, other: AsyncEngine
) -> None:
    till, press = make_service(engine), Press(other)
    assert till.inbox.consumer == "till"
    till.reach(press.service)
    assert "press" in till.inbox._purge._peers
    assert set(till.reached) == {"press"}


async def test_a_neighbour_is_refused_once_the_service_runs(
    engine: AsyncEngine, other: AsyncEngine
) -> None:
    till, press = make_service(engine), Press(other)
    async with till.running():
        with pytest.raises(outbox.InvalidService, match="runs already, without a way to press"):
            till.reach(press.service)
