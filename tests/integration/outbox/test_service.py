"""`outbox.Service`: one object for a service, inside an application of its own."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import outbox
from outbox.contract import StartSaga
from outbox.coordination.progress import STUCK_AFTER
from outbox.tables import outbox as outbox_table
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import Book, Booked, Noted, ledger, ledger_schema, write_entry
from tests.support.processes.waiting import until

SECRETS = "one:" + base64.b64encode(b"s" * 32).decode()
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def make(engine: Any, name: str = "till", **options: Any) -> outbox.Service:
    return outbox.Service(name, engine, **{"secrets": SECRETS, "peers": {}, **options})


async def entries(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(ledger.c.entry))).all())


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://till")


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
    bank = make(engine, "bank")
    bank_app = make_app(lifespan("bank"))
    bank.attach(bank_app)

    # Registered after attach(): a module may declare its handlers where it likes.
    @bank.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        return Booked(1)

    @bank.on(Noted)
    def noted(session: Session, event: Noted, context: outbox.Context) -> None:
        session.execute(ledger.insert().values(entry=event.entry, by=context.id))

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(bank_app))
        state = await stack.enter_async_context(bank_app.router.lifespan_context(bank_app))
        assert state == {"opened by": "bank"}
        till = make(
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
        async with client(till_app) as http:
            assert (await http.get("/livez")).json() == {"status": "alive"}
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]) == (
                200,
                ["database", "relay", "work"],
            )
            sent = 'sagabox_relay_messages_total{destination="bank",outcome="done"} 2.0'
            await until(lambda: _shows(http, sent), what="the sender counts both")
        async with client(bank_app) as http:
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
    make(engine).attach(app, metrics=False)
    app.openapi_schema = None
    assert app.openapi() == before
    async with client(app) as http:
        # Its route for all paths comes after those of the service.
        assert (await http.get("/livez")).status_code == 200
        assert (await http.post("/messages", content=b"unsigned")).status_code in (401, 415)
        assert (await http.get("/metrics")).text == "its own /metrics"
        assert (await http.get("/else")).text == "its own /else"


async def test_below_a_mount_the_addresses_are_the_same(engine: AsyncEngine) -> None:
    inner = FastAPI()
    make(engine).attach(inner)
    outer = FastAPI()
    outer.mount("/till", inner)
    async with client(outer) as http:
        assert (await http.get("/till/livez")).json() == {"status": "alive"}


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.databases("sqlite")
async def test_each_address_can_be_left_out_and_is_not_taken_over(engine: AsyncEngine) -> None:
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> str:
        return "the application's own"

    with pytest.raises(outbox.InvalidService, match="has a route /readyz of its own"):
        make(engine).attach(app)
    # Nothing of it was attached, so that what the error says can be done.
    count = len(app.routes)
    make(engine).attach(app, health=False)
    assert len(app.routes) == count + 2
    app = FastAPI(openapi_url=None)
    make(engine).attach(app, messages=False, health=False, metrics=False)
    assert len(app.routes) == 0


@pytest.mark.databases("sqlite")
async def test_a_route_that_was_added_later_under_the_same_address_stops_the_start(
    engine: AsyncEngine,
) -> None:
    app = FastAPI()
    make(engine).attach(app)

    @app.get("/metrics")
    async def metrics() -> str:
        return "the application's own"

    with pytest.raises(outbox.InvalidService, match=r"/metrics of its own.*metrics=False"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.databases("sqlite")
async def test_a_service_runs_once_in_a_process(engine: AsyncEngine) -> None:
    service = make(engine)
    async with service.running():
        with pytest.raises(outbox.InvalidService, match="runs already"):
            async with service.running():
                pass
    async with service.running():
        pass
    with pytest.raises(outbox.InvalidService, match="belong to a service already"):
        make(service.sessions, "other")


@pytest.mark.databases("sqlite")
def test_a_service_takes_no_commands_of_others(engine: AsyncEngine) -> None:
    service = make(engine, "bnak")

    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        return Booked(1)

    with pytest.raises(outbox.InvalidService, match=r"bank.book.v1 goes to .* bank, .* is bnak"):
        service.on(Book)(book)
    for name in ("", "Bank", "the bank", "bank.x"):
        with pytest.raises(outbox.InvalidService, match="is no name of a service"):
            make(engine, name)


@pytest.mark.databases("sqlite")
async def test_slow_deliveries_that_were_asked_for_are_not_stuck(engine: AsyncEngine) -> None:
    usual = make(engine)
    assert usual.progress.stuck_after == STUCK_AFTER
    patient = outbox.RelaySettings(delivery_timeout=70.0, margin=80.0, lease=200.0)
    assert make(engine, relay=patient).progress.stuck_after == 140.0


async def test_messages_for_a_former_peer_are_told_of_at_the_start(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(engine, peers={"bank": NOWHERE}).sessions.begin() as session:
        outbox.add(session, Book("a", "a command"))
    app = FastAPI()
    make(engine, peers={"press": NOWHERE}).attach(app)
    async with app.router.lifespan_context(app):
        assert "1 messages wait for bank, which is no peer of till" in caplog.text


@pytest.mark.databases("sqlite")
async def test_an_application_that_runs_already_is_refused(engine: AsyncEngine) -> None:
    app = FastAPI()
    async with client(app) as http:
        await http.get("/")
    with pytest.raises(outbox.InvalidService, match="runs already"):
        make(engine).attach(app)
    with pytest.raises(outbox.InvalidService, match="a dict is no application"):
        make(engine).attach({})
    used = make(engine)
    assert used.inbox.consumer == "till"
    with pytest.raises(outbox.InvalidService, match="cannot be observed from now"):
        used.attach(FastAPI())


@pytest.mark.databases("sqlite")
async def test_a_database_that_cannot_be_is_refused_in_one_sentence(engine: AsyncEngine) -> None:
    plain = create_engine("sqlite:///somewhere.sqlite")
    for database, problem in [
        (plain, "the Engine is synchronous"),
        (async_sessionmaker(), "the sessionmaker has no engine"),
        ("sqlite://", "the database is a str"),
    ]:
        with pytest.raises(outbox.InvalidService, match=problem):
            make(database)
    sessions = async_sessionmaker(engine)
    assert make(sessions).sessions is sessions


@pytest.mark.databases("sqlite")
def test_peers_come_from_arguments_or_from_the_environment(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_PEERS", f"bank={NOWHERE}, press=https://press.example/a")
    assert make(engine, peers=None).peers == {
        "bank": NOWHERE,
        "press": "https://press.example/a",
    }
    assert make(engine, peers={"bank": NOWHERE}).peers == {"bank": NOWHERE}
    for wrong, problem in [
        ("bank", "'bank' is not name=address"),
        ("bank=ftp://x", "the address of bank: 'ftp://x' is not an address"),
        (f"bank={NOWHERE},bank={NOWHERE}", "bank has two addresses"),
        (f"={NOWHERE}", "no name of a service"),
    ]:
        monkeypatch.setenv("SAGABOX_PEERS", wrong)
        with pytest.raises(outbox.InvalidService, match="SAGABOX_PEERS cannot be read") as error:
            make(engine, peers=None)
        assert problem in str(error.value)
    with pytest.raises(outbox.InvalidService, match="the address of the peer bank"):
        make(engine, peers={"bank": "bank"})


@pytest.mark.databases("sqlite")
async def test_a_message_to_a_stranger_is_refused_when_it_is_added(engine: AsyncEngine) -> None:
    with pytest.raises(outbox.Unrouted, match=r"till has no peer pres.*it has: bank, press"):
        make(engine, peers={"bank": NOWHERE, "press": NOWHERE}, routes={Noted: ["pres"]})
    service = make(engine, peers={"press": NOWHERE})
    async with service.sessions.begin() as session:
        with pytest.raises(outbox.Unrouted, match=r"till has no peer bank.*SAGABOX_PEERS"):
            outbox.add(session, Book("a", "a command"))
        with pytest.raises(outbox.Unrouted, match="till has no peer pres"):
            outbox.add(session, Noted("a", "an event"), to="pres")
        outbox.add(session, Noted("a", "an event"), to="press")
    async with engine.connect() as connection:
        assert (await connection.scalars(select(outbox_table.c.destination))).all() == ["press"]


@pytest.mark.databases("sqlite")
async def test_signing_keys_are_read_at_the_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)
    service = make(engine, secrets=None)  # a module of migrations can import it
    with pytest.raises(outbox.InvalidService, match=r"no signing keys.*set SAGABOX_SECRETS"):
        service.attach(FastAPI())
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    service.attach(FastAPI())  # nothing of the first one stands in the way
    async with service.running():
        pass
    assert make(engine, secrets=outbox.Keyring.from_text(SECRETS)).keys() is not None


# --- Tables ---------------------------------------------------------------------------------------


async def test_missing_tables_are_one_readable_error(
    database_factory: DatabaseFactory, make_engine: MakeEngine
) -> None:
    def nothing(_: Any) -> None:
        """No tables at all."""

    engine = make_engine(database_factory(nothing))
    with pytest.raises(
        outbox.SchemaMissing, match=r"none of the library's tables.*schema.upgrade\(op, to=2\)"
    ):
        async with make(engine).running():
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
    service = make(engine)
    async with engine.begin() as connection:
        await connection.execute(text(change))
    with pytest.raises(outbox.SchemaOlder, match=problem):
        async with service.running():
            pass


async def test_readiness_names_the_table_that_is_gone(engine: AsyncEngine) -> None:
    service, app = make(engine), FastAPI()
    service.attach(app)
    async with app.router.lifespan_context(app), client(app) as http:
        assert (await http.get("/readyz")).status_code == 200
        async with engine.begin() as connection:
            await connection.execute(text("DROP TABLE inbox_watermark"))
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "inbox_watermark" in answer.json()["detail"]


@pytest.mark.databases("sqlite")
async def test_readiness_says_that_the_relay_does_not_run(engine: AsyncEngine) -> None:
    service, app = make(engine, peers={"bank": NOWHERE}), FastAPI()
    service.attach(app)
    async with client(app) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
        async with app.router.lifespan_context(app):
            assert (await http.get("/readyz")).status_code == 200


# --- Starting sagas -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Booking:
    hotel: str
    nights: int


BOOK_TRIP = outbox.SagaRef[Booking]("book-trip")


async def test_a_saga_is_asked_for_with_the_transaction(engine: AsyncEngine) -> None:
    service = make(engine, peers={"orchestrator": NOWHERE})
    async with service.sessions() as session:
        await session.begin()
        service.start(session, BOOK_TRIP, Booking("rolled back", 1))
        await session.rollback()
    async with service.sessions.begin() as session:
        run = service.start(session, BOOK_TRIP, Booking("Ritz", 3))
        known = service.new_id()
        assert service.start(session, BOOK_TRIP, Booking("Savoy", 1), id=known) == known
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                select(outbox_table.c.destination, outbox_table.c.payload).order_by(
                    outbox_table.c.seq
                )
            )
        ).all()
    assert [name for name, _ in rows] == ["orchestrator"] * 2
    assert [outbox_message(data) for _, data in rows] == [
        StartSaga("book-trip", {"hotel": "Ritz", "nights": 3}, instance_id=run),
        StartSaga("book-trip", {"hotel": "Savoy", "nights": 1}, instance_id=known),
    ]


def outbox_message(data: str) -> StartSaga:
    from outbox.wire.codec import decode

    return decode(StartSaga, data.encode())


@pytest.mark.databases("sqlite")
async def test_a_saga_cannot_be_asked_for_without_a_way_or_an_input(engine: AsyncEngine) -> None:
    numbers = outbox.SagaRef[int]("count")
    service = make(engine, peers={"orchestrator": NOWHERE})
    async with service.sessions.begin() as session:
        with pytest.raises(outbox.InvalidMessage, match=r"cannot run under the id '1b4e.*new_id"):
            service.start(
                session, BOOK_TRIP, Booking("Ritz", 3), id="1b4e28ba-2fa1-4d11-883f-b9a761bde3fb"
            )
        with pytest.raises(outbox.InvalidMessage, match="cannot run under the id 'order-1'"):
            service.start(session, BOOK_TRIP, Booking("Ritz", 3), id="order-1")
        with pytest.raises(outbox.InvalidService, match="the input of the saga count is a int"):
            service.start(session, numbers, 3)
        with pytest.raises(outbox.Unrouted, match="till has no peer elsewhere"):
            service.start(session, BOOK_TRIP, Booking("Ritz", 3), orchestrator="elsewhere")
    async with engine.connect() as connection:
        assert (await connection.scalars(select(outbox_table.c.seq))).all() == []
