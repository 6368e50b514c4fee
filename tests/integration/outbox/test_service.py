"""`outbox.Service`: one object for a service, inside an application of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import outbox
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import (
    Book,
    Booked,
    Noted,
    ledger,
    ledger_schema,
    plainly,
    write_entry,
)
from tests.support.outbox.services import NOWHERE, client_of, make_service
from tests.support.processes.waiting import until


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


async def entries(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(ledger.c.entry))).all())


# --- Two services ---------------------------------------------------------------------------------


def fastapi_app(lifespan: Any) -> Starlette:
    return FastAPI(lifespan=lifespan)


def starlette_app(lifespan: Any) -> Starlette:
    return Starlette(lifespan=lifespan)


@pytest.mark.parametrize("make_app", [fastapi_app, starlette_app])
async def test_what_one_service_adds_takes_effect_in_the_other(
    database_factory: DatabaseFactory, make_engine: MakeEngine, make_app: Callable[[Any], Starlette]
) -> None:
    order: list[str] = []

    def lifespan(name: str) -> Any:
        @asynccontextmanager
        async def own(_: Any) -> AsyncIterator[dict[str, str]]:
            order.append(f"{name} begins")
            yield {"opened by": name}
            order.append(f"{name} ends")

        return own

    engine = make_engine(database_factory(ledger_schema))
    bank = make_service(engine, "bank")
    bank_app = make_app(lifespan("bank"))
    bank.attach(bank_app)

    # Registered after attach(): a module may declare its handlers where it likes.
    @bank.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        return Booked(1)

    @bank.on(Noted)
    @plainly
    def noted(session: Session, event: Noted, context: outbox.Context) -> None:
        session.execute(ledger.insert().values(entry=event.entry, by=context.id))

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(bank_app))
        state = await stack.enter_async_context(bank_app.router.lifespan_context(bank_app))
        assert state == {"opened by": "bank"}
        till = make_service(
            make_engine(database_factory(ledger_schema)),
            peers={"bank": address},
            routes={Noted: ["bank"]},
        )
        till_app = make_app(lifespan("till"))
        till.attach(till_app)
        await stack.enter_async_context(till_app.router.lifespan_context(till_app))
        async with till.sessions.begin() as session:
            outbox.add(session, Book("a", "a command"))
            outbox.add(session, Noted("a", "an event"))
        await until(lambda: _has_both(engine), what="both take effect")
        async with client_of(till_app) as http:
            assert (await http.get("/livez")).json() == {"status": "alive"}
            for path in ("/livez", "/readyz"):
                head = await http.head(path)
                assert (head.status_code, head.content) == (200, b""), "as some balancers ask"
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]) == (
                200,
                ["database", "relay", "work"],
            )
            sent = 'sagabox_relay_messages_total{destination="bank",outcome="done"} 2.0'
            await until(lambda: _shows(http, sent), what="the sender counts both")
        async with client_of(bank_app) as http:
            assert await _shows(http, 'sagabox_inbox_messages_total{outcome="done"} 2.0')
    assert order == ["bank begins", "till begins", "till ends", "bank ends"]


async def _has_both(engine: AsyncEngine) -> bool:
    return sorted(await entries(engine)) == ["a command", "an event"]


async def _shows(http: httpx.AsyncClient, figure: str) -> bool:
    return figure in (await http.get("/metrics")).text


async def test_an_application_stays_what_it_was(engine: AsyncEngine) -> None:
    async def everything(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"its own {request.url.path}")

    app = FastAPI(routes=[Route("/{rest:path}", everything)])
    before = app.openapi()
    make_service(engine).attach(app, metrics=False)
    app.openapi_schema = None
    assert app.openapi() == before
    async with client_of(app) as http:
        # Its route for all paths comes after those of the service.
        assert (await http.get("/livez")).status_code == 200
        assert (await http.post("/messages", content=b"unsigned")).status_code in (401, 415)
        assert (await http.get("/metrics")).text == "its own /metrics"
        assert (await http.get("/else")).text == "its own /else"


async def test_below_a_mount_the_addresses_are_the_same(engine: AsyncEngine) -> None:
    inner = FastAPI()
    make_service(engine).attach(inner)
    outer = FastAPI()
    outer.mount("/till", inner)
    async with client_of(outer) as http:
        assert (await http.get("/till/livez")).json() == {"status": "alive"}


# --- Tables ---------------------------------------------------------------------------------------


async def test_missing_tables_are_one_readable_error(
    database_factory: DatabaseFactory, make_engine: MakeEngine
) -> None:
    def nothing(_: Any) -> None:
        """No tables at all."""

    engine = make_engine(database_factory(nothing))
    with pytest.raises(
        outbox.SchemaMissing, match=r"none of the library's tables.*schema.upgrade\(op, to=5\)"
    ):
        async with make_service(engine).running():
            pass


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DROP TABLE outbox_held", "lacks the table outbox_held"),
        ("ALTER TABLE inbox DROP COLUMN due", "the table inbox .* lacks the column due"),
    ],
)
async def test_tables_of_an_older_release_are_one_readable_error(
    engine: AsyncEngine, change: str, problem: str
) -> None:
    service = make_service(engine)
    async with engine.begin() as connection:
        await connection.execute(text(change))
    with pytest.raises(outbox.SchemaOlder, match=problem):
        async with service.running():
            pass


async def test_readiness_names_the_table_that_is_gone(engine: AsyncEngine) -> None:
    service, app = make_service(engine), FastAPI()
    service.attach(app)
    async with app.router.lifespan_context(app), client_of(app) as http:
        assert (await http.get("/readyz")).status_code == 200
        async with engine.begin() as connection:
            await connection.execute(text("DROP TABLE inbox_watermark"))
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "inbox_watermark" in answer.json()["detail"]


@pytest.mark.databases("sqlite")
async def test_readiness_says_that_the_relay_does_not_run(engine: AsyncEngine) -> None:
    service, app = make_service(engine, peers={"bank": NOWHERE}), FastAPI()
    service.attach(app)
    async with client_of(app) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        async with app.router.lifespan_context(app):
            assert (await http.get("/readyz")).status_code == 200
