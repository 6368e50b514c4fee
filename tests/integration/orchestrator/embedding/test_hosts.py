"""The application around an embedded orchestrator: what it may be, and how both start and end."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import context as telemetry_context
from sqlalchemy import Engine, delete, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

import orchestrator
import outbox
from orchestrator.embedding.attach import TABLES
from orchestrator.errors import StartInDoubt
from outbox import tracing
from outbox.contract import SagaEnded
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeSyncEngine
from tests.support.orchestrator.embedded import (
    TRANSFER,
    Bank,
    Confirm,
    Ends,
    Transfer,
    add_handlers,
    bank,
    transfer,
)
from tests.support.outbox.inboxes import Book, Booked, Unbook, ledger
from tests.support.outbox.services import SECRETS
from tests.support.processes.waiting import until

A_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_handlers_of_its_service_may_be_plain_functions(
    database: Database, make_sync_engine: MakeSyncEngine
) -> None:
    engine, app, told = make_sync_engine(database), FastAPI(), dict[str, str]()
    service = outbox.Service("bank", engine, peers={})

    @service.on(Book)
    def book(session: Session, command: Book, context: outbox.Context) -> Booked:
        session.execute(ledger.insert().values(entry=command.entry, by=context.id))
        return Booked(1)

    @service.on(Unbook)
    def unbook(session: Session, command: Unbook, context: outbox.Context) -> None:
        session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))

    @service.on(Confirm)
    def confirm(_: Session, command: Confirm, _context: outbox.Context) -> None:
        """It is."""

    @service.on(SagaEnded)
    def note_end(_: Session, event: SagaEnded, _context: outbox.Context) -> None:
        told[event.instance_id] = event.status

    service.attach(app, messages=False)
    runs = orchestrator.attach(app, engine, sagas=[transfer], peers={"bank": service})
    async with app.router.lifespan_context(app):
        first = await runs.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await first.wait(20)).status == "COMPLETED"
        with service.sessions.begin() as session:
            second = service.start(session, TRANSFER, Transfer("bob", "two"))
        await until(lambda: second in told, what="its end is told")
    assert told == {second: "COMPLETED"}


@pytest.mark.parametrize("service_first", [True, False], ids=["service first", "last"])
async def test_it_starts_and_ends_in_any_order_in_which_the_two_were_attached(
    engine: AsyncEngine, service_first: bool
) -> None:
    """What one has for the other when that has ended stays where it is until the next start."""
    ends, entries = Ends(), [f"entry {it}" for it in range(10)]
    asked: list[str] = []

    def are_told(runs: list[str]) -> bool:
        return set(runs) <= set(ends.told)

    for round in range(3):
        service, app = outbox.Service("bank", engine, peers={}), FastAPI()
        add_handlers(service, ends)
        if service_first:
            service.attach(app, messages=False)
        embedded = orchestrator.attach(app, engine, sagas=[transfer], peers={"bank": service})
        if not service_first:
            service.attach(app, messages=False)
        one = Bank(app, service, embedded, ends)
        async with asyncio.timeout(90):
            async with one.running():
                if round < 2:
                    asked += [await one.ask(f"{round}{it}", it) for it in entries]
                else:
                    await until(partial(are_told, asked), what="all ends are told")
    assert ends.told == dict.fromkeys(asked, "COMPLETED")
    booked = [f"{it}{end}" for it in entries for end in ("", ", noted")] * 2
    assert sorted(await one.entries()) == sorted(booked)


@pytest.mark.databases("sqlite")
async def test_the_same_application_may_start_again(one: Bank) -> None:
    for entry in ("one", "two"):
        async with one.running():
            run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", entry))
            assert (await run.wait(20)).status == "COMPLETED"


@pytest.mark.databases("sqlite")
async def test_its_own_client_is_refused_at_once_where_the_orchestrator_does_not_run(
    one: Bank,
) -> None:
    async def ask() -> None:
        async with asyncio.timeout(30):
            with pytest.raises(StartInDoubt, match=r"does not run in this event loop.*with key="):
                await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))

    await ask()
    async with one.running():
        await asyncio.to_thread(asyncio.run, ask())
        page = await one.orchestrator.client._http.get("/sagas")
        assert page.json()["items"] == []
    await ask()
    pool = one.engine._database.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedin() == 0


@pytest.mark.databases("sqlite")
async def test_nothing_begins_before_the_application_does(one: Bank, database: Database) -> None:
    lock = Path(f"{database.path}.{TABLES.name('orchestrator')}")
    assert not lock.exists()
    pool = one.engine._database.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedin() == pool.checkedout() == 0
    async with one.running():
        await until(lock.exists, what="it is the node")


async def test_a_listener_of_all_engines_hears_of_its_connections_too(engine: AsyncEngine) -> None:
    def prepare(_: object, record: ConnectionPoolEntry) -> None:
        record.info["prepared"] = True

    event.listen(Engine, "connect", prepare)
    try:
        own = bank(engine).engine._database.engine
        async with own.connect() as connection:
            assert "prepared" in await connection.run_sync(lambda it: it.info)
        await own.dispose()
    finally:
        event.remove(Engine, "connect", prepare)


@pytest.mark.databases("sqlite")
async def test_its_own_client_may_ask_as_often_as_it_likes_and_carries_the_trace_of_its_caller(
    one: Bank,
) -> None:
    async with one.running():
        token = telemetry_context.attach(tracing.context_of(A_TRACE))
        run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        telemetry_context.detach(token)
        for _ in range(250):
            state = await run.get()
        assert state.id == run.id
        body = await one.orchestrator.client._http.get(f"/sagas/{run.id}")
    assert body.json()["trace_id"] == A_TRACE.split("-")[1]


@pytest.mark.databases("sqlite")
def test_what_cannot_be_is_refused_where_it_is_attached(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(app: Any = None, database: AsyncEngine = engine, **options: Any) -> None:
        service = outbox.Service("bank", engine, peers={})
        given = {"sagas": [transfer], "peers": {"bank": service}, **options}
        orchestrator.attach(FastAPI() if app is None else app, database, **given)

    taken = FastAPI()
    taken.add_api_route("/orchestrator/mine", lambda: None)
    service = outbox.Service("bank", engine, peers={})
    for options, problem in (
        ({"app": {}}, "a dict is no application"),
        ({"app": taken}, "has a route /orchestrator/mine of its own.*another prefix"),
        ({"prefix": "runs/"}, "'runs/' is no prefix"),
        ({"name": "bank"}, "bank is the name of the orchestrator, and of one of its peers"),
        ({"peers": {"shop": service}}, "the peer shop is the service bank"),
        ({"peers": {"bank": 7}}, "the peer bank is a int"),
    ):
        with pytest.raises(outbox.InvalidService, match=problem):
            attach(**options)
    with pytest.raises(orchestrator.InvalidSaga, match="sends commands to bank"):
        attach(peers={})
    in_memory = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(outbox.OutboxError, match=r"is in memory.*use a file"):
        attach(database=in_memory)
    with pytest.raises(outbox.OutboxError, match="SAGABOX_SECRETS: it is not set"):
        attach(peers={"bank": service, "mail": "http://127.0.0.1:1"})
    monkeypatch.setenv("SAGABOX_PEERS", "bank=http://127.0.0.1:1")
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    with pytest.raises(orchestrator.InvalidSaga, match="bank, which is the name of this"):
        attach(peers=None, name="bank")
