"""`outbox.Service` on a synchronous database: plain handlers, a plain session, and no asyncio."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, create_engine, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

import outbox
from outbox.database.twins import twin_of
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import Book, Booked, Noted, ledger, ledger_schema
from tests.support.outbox.services import NOWHERE, client_of, make_plain_service, make_service
from tests.support.processes.waiting import until


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def entries(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(select(ledger.c.entry)))


def write(session: Session, entry: str, by: str) -> None:
    session.execute(insert(ledger).values(entry=entry, by=by))


async def test_two_services_on_synchronous_databases_reach_each_other(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    banks = make_sync_engine(database_factory(ledger_schema))
    bank, bank_app = make_service(banks, "bank"), FastAPI()
    bank.attach(bank_app)

    @bank.on(Book)
    def book(session: Session, command: Book, context: outbox.Context) -> Booked:
        write(session, command.entry, context.id)
        return Booked(1)

    @bank.on(Noted)
    def noted(session: Session, event: Noted, context: outbox.Context) -> None:
        write(session, event.entry, context.id)

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(bank_app))
        await stack.enter_async_context(bank_app.router.lifespan_context(bank_app))
        tills = make_sync_engine(database_factory(ledger_schema))
        till = make_plain_service(tills, peers={"bank": address}, routes={Noted: ["bank"]})
        till_app = FastAPI()
        till.attach(till_app)
        await stack.enter_async_context(till_app.router.lifespan_context(till_app))

        def sell() -> None:
            with till.sessions.begin() as session:
                outbox.add(session, Book("a", "a command"))
                outbox.add(session, Noted("a", "an event"))

        await asyncio.to_thread(sell)
        await until(
            lambda: sorted(entries(banks)) == ["a command", "an event"], what="both take effect"
        )
        async with client_of(bank_app) as client:
            ready = await client.get("/readyz")
            assert ready.json()["checks"] == ["database", "relay", "work", "threads"]
            metrics = (await client.get("/metrics")).text
        assert "sagabox_handler_threads_given_up 0.0" in metrics


async def test_livez_is_answered_while_handlers_block(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine, make_engine: MakeEngine
) -> None:
    banks = make_sync_engine(database_factory(ledger_schema))
    limits = outbox.InboxLimits(handler=0.5)
    bank, bank_app = make_service(banks, "bank", limits=limits), FastAPI()
    bank.attach(bank_app)
    inside, go_on = threading.Event(), threading.Event()

    @bank.on(Noted)
    def noted(session: Session, event: Noted, context: outbox.Context) -> None:
        # Its message may come again before the test goes on.
        inside.set()
        go_on.wait(30)

    threads = bank.inbox.threads
    assert threads is not None
    threads.most = 1
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(bank_app))
        tills = make_engine(database_factory(ledger_schema))
        till = make_service(tills, peers={"bank": address}, routes={Noted: ["bank"]})
        async with till.sessions.begin() as session:
            outbox.add(session, Noted("a"))
        async with till.running(), client_of(bank_app) as client:
            await asyncio.to_thread(inside.wait, 30)
            assert (await client.get("/livez")).status_code == 200
            await until(lambda: threads.given_up == 1, what="the handler is given up")
            problem = (await client.get("/readyz")).json()
            assert "all 1 threads for handlers are taken" in problem["detail"]
        go_on.set()
        await until(lambda: threads.given_up == 0, what="its thread ends")
    # It was never run, so that its twin is not closed by its end.
    await bank.engine.dispose()


# --- The engine of the relay ----------------------------------------------------------------------


async def test_a_twin_reaches_the_same_database(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    engine = make_sync_engine(database_factory(ledger_schema))
    with engine.begin() as connection:
        connection.execute(insert(ledger).values(entry="by the other", by="other"))
    twin = twin_of(engine, name="a test")
    async with twin.connect() as connection:
        assert list(await connection.scalars(select(ledger.c.entry))) == ["by the other"]
    await twin.dispose()


def test_an_engine_whose_url_says_too_little_needs_an_engine_for_its_relay() -> None:
    plain = create_engine("postgresql+psycopg://", creator=lambda: None)
    with pytest.raises(outbox.OutboxError, match=r"made with a creator.*give relay_engine="):
        make_service(plain)


@pytest.mark.databases("postgresql")
async def test_a_given_engine_is_that_of_the_relay(
    engine: AsyncEngine, database: Database, make_sync_engine: MakeSyncEngine
) -> None:
    plain = make_sync_engine(database)
    service = make_service(plain, relay_engine=engine, peers={"bank": NOWHERE})
    assert service.engine is engine
    async with service.running():
        pass
    async with engine.connect():
        pass


def test_the_connect_args_of_psycopg_go_to_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = create_engine("postgresql+psycopg://u@h/db", connect_args={"options": "-c x.y=1"})
    seen: dict[str, Any] = {}
    twin = twin_of(plain, name="a test")

    def connect(*_args: Any, **arguments: Any) -> Any:
        seen.update(arguments)
        raise RuntimeError("seen")

    monkeypatch.setattr(twin.dialect, "connect", connect)
    with pytest.raises(RuntimeError, match="seen"):
        twin.sync_engine.raw_connection()
    assert seen["options"] == "-c x.y=1"
