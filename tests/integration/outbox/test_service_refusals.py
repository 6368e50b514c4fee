"""`outbox.Service`: what it refuses where it is given, and how a saga is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import sessionmaker

import outbox
from outbox.contract import StartSaga
from outbox.coordination.progress import STUCK_AFTER
from outbox.integrations.bare import bare
from outbox.tables import outbox as outbox_table
from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import Book, Booked, Noted, ledger_schema
from tests.support.outbox.services import NOWHERE, SECRETS, client_of, make_service
from tests.support.processes.waiting import until


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.mark.databases("sqlite")
async def test_each_address_can_be_left_out_and_is_not_taken_over(engine: AsyncEngine) -> None:
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> str:
        return "the application's own"

    with pytest.raises(outbox.InvalidService, match="has a route /readyz of its own"):
        make_service(engine).attach(app)
    # Nothing of it was attached, so that what the error says can be done.
    count = len(app.routes)
    make_service(engine).attach(app, health=False)
    assert len(app.routes) == count + 2
    app = FastAPI(openapi_url=None)
    make_service(engine).attach(app, messages=False, health=False, metrics=False)
    assert len(app.routes) == 0


@pytest.mark.databases("sqlite")
async def test_a_route_that_was_added_later_under_the_same_address_stops_the_start(
    engine: AsyncEngine,
) -> None:
    app = FastAPI()
    make_service(engine).attach(app)

    @app.get("/metrics")
    async def metrics() -> str:
        return "the application's own"

    with pytest.raises(outbox.InvalidService, match=r"/metrics of its own.*metrics=False"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.databases("sqlite")
async def test_a_service_runs_once_in_a_process(engine: AsyncEngine) -> None:
    service = make_service(engine)
    async with service.running():
        with pytest.raises(outbox.InvalidService, match="runs already"):
            async with service.running():
                pass
    async with service.running():
        pass
    with pytest.raises(outbox.InvalidService, match="belong to a service already"):
        make_service(service.sessions, "other")


@pytest.mark.databases("sqlite")
def test_a_plain_sessionmaker_for_an_async_engine_is_refused_by_name(engine: AsyncEngine) -> None:
    """As it was written before SQLAlchemy 2."""
    of_any_engine: Any = sessionmaker
    sessions = of_any_engine(engine, class_=AsyncSession)
    with pytest.raises(outbox.InvalidService, match=r"write async_sessionmaker\(engine"):
        outbox.Service("bank", sessions)


@pytest.mark.databases("sqlite")
def test_a_service_takes_no_commands_of_others(engine: AsyncEngine) -> None:
    service = make_service(engine, "bnak")

    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        return Booked(1)

    with pytest.raises(outbox.InvalidService, match=r"bank.book.v1 goes to .* bank, .* is bnak"):
        service.on(Book)(book)
    for name in ("", "Bank", "the bank", "bank.x"):
        with pytest.raises(outbox.InvalidService, match="is no name of a service"):
            make_service(engine, name)


@pytest.mark.databases("sqlite")
async def test_slow_deliveries_that_were_asked_for_are_not_stuck(engine: AsyncEngine) -> None:
    usual = make_service(engine)
    assert usual.progress.stuck_after == STUCK_AFTER
    patient = outbox.RelaySettings(delivery_timeout=70.0, margin=80.0, lease=200.0)
    assert make_service(engine, relay=patient).progress.stuck_after == 140.0


@pytest.mark.databases("sqlite")
async def test_a_handler_that_does_not_fit_the_database_is_refused_where_it_is_registered(
    engine: AsyncEngine,
) -> None:
    service = make_service(engine, "bank")

    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
        raise AssertionError

    def plain(session: Any, command: Book, context: outbox.Context) -> Booked:
        raise AssertionError

    with pytest.raises(outbox.InvalidHandlers, match=r"is 60 s, and on this SQLite"):
        service.on(Book, timeout=60)(book)
    with pytest.raises(outbox.InvalidHandlers, match=r"plain is a plain function"):
        service.on(Book)(plain)
    service.on(Book)(book)


@pytest.mark.parametrize("peers", [{"press": NOWHERE}, {}], ids=["others", "none"])
async def test_messages_for_a_former_peer_are_told_of(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture, peers: dict[str, str]
) -> None:
    """Also those that are scheduled, and those of another program: they are found in the tables."""
    later = datetime(2100, 1, 1, tzinfo=UTC)
    async with make_service(engine, peers={"bank": NOWHERE}).sessions.begin() as session:
        outbox.add(session, Book("a", "a command"))
        outbox.add(session, Book("a", "a later one"), deliver_at=later)
    service = make_service(engine, peers=peers)
    async with service.running():
        await until(lambda: "wait for bank" in caplog.text, what="the relay tells of them")
    assert "2 messages wait for bank: till has no peer bank, " in caplog.text
    assert "wait for press" not in caplog.text


@pytest.mark.databases("sqlite")
async def test_a_single_message_for_a_former_peer_is_told_of_as_one(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_service(engine, peers={"bank": NOWHERE}).sessions.begin() as session:
        outbox.add(session, Book("a", "a command"))
    async with make_service(engine, peers={}).running():
        await until(lambda: "for bank: " in caplog.text, what="the relay tells of it")
    assert "1 message waits for bank: till has no peer bank, " in caplog.text


@pytest.mark.databases("sqlite")
async def test_an_application_that_runs_already_is_refused(engine: AsyncEngine) -> None:
    app = FastAPI()
    async with client_of(app) as http:
        await http.get("/")
    with pytest.raises(outbox.InvalidService, match="runs already"):
        make_service(engine).attach(app)
    with pytest.raises(outbox.InvalidService, match="a dict is no application"):
        make_service(engine).attach({})
    used = make_service(engine)
    assert used.inbox.consumer == "till"
    with pytest.raises(outbox.InvalidService, match="cannot be observed from now"):
        used.attach(FastAPI())


@pytest.mark.databases("sqlite")
async def test_a_service_that_is_attached_is_run_by_its_application_alone(
    engine: AsyncEngine,
) -> None:
    attached = make_service(engine)
    attached.attach(FastAPI())
    with pytest.raises(outbox.InvalidService, match="is attached to an application, which runs it"):
        bare(attached)
    with pytest.raises(outbox.InvalidService, match="start that application"):
        attached.attach(FastAPI())


@pytest.mark.databases("sqlite")
async def test_a_database_that_cannot_be_is_refused_in_one_sentence(engine: AsyncEngine) -> None:
    for database, problem in [
        (async_sessionmaker(), "the sessionmaker has no engine"),
        ("sqlite://", "the database is a str"),
    ]:
        with pytest.raises(outbox.InvalidService, match=problem):
            make_service(database)
    sessions = async_sessionmaker(engine)
    assert make_service(sessions).sessions is sessions


@pytest.mark.databases("sqlite")
def test_peers_come_from_arguments_or_from_the_environment(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_PEERS", f"bank={NOWHERE}, press=https://press.example/a")
    assert make_service(engine, peers=None).peers == {
        "bank": NOWHERE,
        "press": "https://press.example/a",
    }
    assert make_service(engine, peers={"bank": NOWHERE}).peers == {"bank": NOWHERE}
    for wrong, problem in [
        ("bank", "'bank' is not name=address"),
        ("bank=ftp://x", "the address of bank: 'ftp://x' is not an address"),
        (f"bank={NOWHERE},bank={NOWHERE}", "bank has two addresses"),
        (f"={NOWHERE}", "no name of a service"),
    ]:
        monkeypatch.setenv("SAGABOX_PEERS", wrong)
        with pytest.raises(outbox.InvalidService, match="SAGABOX_PEERS cannot be read") as error:
            make_service(engine, peers=None)
        assert problem in str(error.value)
        assert "nats://" in error.value.next_step
    with pytest.raises(outbox.InvalidService, match="the address of the peer bank"):
        make_service(engine, peers={"bank": "bank"})


@pytest.mark.databases("sqlite")
async def test_a_message_to_a_stranger_is_refused_when_it_is_added(engine: AsyncEngine) -> None:
    with pytest.raises(outbox.Unrouted, match=r"till has no peer pres.*it has: bank, press"):
        make_service(engine, peers={"bank": NOWHERE, "press": NOWHERE}, routes={Noted: ["pres"]})
    service = make_service(engine, peers={"press": NOWHERE})
    async with service.sessions.begin() as session:
        with pytest.raises(outbox.Unrouted, match=r"till has no peer bank.*SAGABOX_PEERS"):
            outbox.add(session, Book("a", "a command"))
        with pytest.raises(outbox.Unrouted, match="till has no peer pres"):
            outbox.add(session, Noted("a", "an event"), to="pres")
        with pytest.raises(outbox.Unrouted, match=r"no route.*routes=, of outbox.Service"):
            outbox.add(session, Noted("a", "an event"))
        outbox.add(session, Noted("a", "an event"), to="press")
    async with engine.connect() as connection:
        assert (await connection.scalars(select(outbox_table.c.destination))).all() == ["press"]


@pytest.mark.databases("sqlite")
async def test_signing_keys_are_read_at_the_start(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)
    service = make_service(engine, secrets=None)  # a module of migrations can import it
    with pytest.raises(outbox.InvalidService, match=r"no signing keys.*set SAGABOX_SECRETS"):
        service.attach(FastAPI())
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)
    service.attach(FastAPI())  # nothing of the first one stands in the way
    async with service.running():
        pass
    assert make_service(engine, secrets=outbox.Keyring.from_text(SECRETS)).keys() is not None


# --- Starting sagas -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Booking:
    hotel: str
    nights: int


BOOK_TRIP = outbox.SagaRef[Booking]("book-trip")
NEXT_YEAR = datetime(2031, 1, 1, tzinfo=UTC)


async def test_a_saga_is_asked_for_with_the_transaction(engine: AsyncEngine) -> None:
    service = make_service(engine, peers={"orchestrator": NOWHERE})
    async with service.sessions() as session:
        await session.begin()
        service.start(session, BOOK_TRIP, Booking("rolled back", 1))
        await session.rollback()
    async with service.sessions.begin() as session:
        run = service.start(session, BOOK_TRIP, Booking("Ritz", 3))
        known = service.new_id()
        assert service.start(session, BOOK_TRIP, Booking("Savoy", 1), id=known) == known
        later = service.start(session, BOOK_TRIP, Booking("Adlon", 2), begin_at=NEXT_YEAR)
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                select(outbox_table.c.destination, outbox_table.c.payload).order_by(
                    outbox_table.c.seq
                )
            )
        ).all()
    assert [name for name, _ in rows] == ["orchestrator"] * 3
    assert [outbox_message(data) for _, data in rows] == [
        StartSaga("book-trip", {"hotel": "Ritz", "nights": 3}, instance_id=run),
        StartSaga("book-trip", {"hotel": "Savoy", "nights": 1}, instance_id=known),
        StartSaga("book-trip", {"hotel": "Adlon", "nights": 2}, later, NEXT_YEAR),
    ]


def outbox_message(data: str) -> StartSaga:
    from outbox.wire.codec import decode

    return decode(StartSaga, data.encode())


@pytest.mark.databases("sqlite")
async def test_a_saga_cannot_be_asked_for_without_a_way_or_an_input(engine: AsyncEngine) -> None:
    numbers = outbox.SagaRef[int]("count")
    service = make_service(engine, peers={"orchestrator": NOWHERE})
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
