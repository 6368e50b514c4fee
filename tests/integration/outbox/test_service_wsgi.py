"""`outbox.Service.wsgi`: a service inside a WSGI application, in a thread of its process."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.errors import InvalidService, SchemaMissing
from outbox.integrations.wsgi import WsgiService
from outbox.replies import Outcome, Reply
from outbox.tables import metadata
from outbox.transports.http.door import MAX_BODY_BYTES
from outbox.wire.envelope import Envelope, replies_from_batch
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.http.wsgi_calls import Answered, ask, environ_of, get, signed
from tests.support.outbox.banks import booking, entries, press
from tests.support.outbox.inboxes import Book, Booked, Noted, ledger, ledger_schema
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service
from tests.support.processes.waiting import until, wait_until

Plain = outbox.Service[sessionmaker[Session]]


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def plain(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


@pytest.fixture
def bank(plain: Engine) -> Plain:
    return bank_on(plain)


@pytest.fixture
def app(bank: Plain) -> Iterator[WsgiService]:
    app = bank.wsgi()
    yield app
    app.stop()


def bank_on(engine: Engine, **options: Any) -> Plain:
    bank = make_plain_service(engine, "bank", **options)

    @bank.on(Book)
    def book(session: Session, command: Book, context: outbox.Context) -> Booked:
        session.execute(insert(ledger).values(entry=command.entry, by=context.id))
        return Booked(1)

    return bank


def own(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The application of the one who has the service."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"own"]


def in_background() -> list[str]:
    """The threads in which services run."""
    return [it.name for it in threading.enumerate() if it.name.endswith("in the background")]


def replies(answer: Answered, *envelopes: Envelope) -> list[Reply]:
    assert answer.status == 200, answer
    return replies_from_batch(answer.body, [it.id for it in envelopes])


# --- Messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mount", ["", "/in/the~middle"])
def test_a_message_takes_effect_once_wherever_the_application_is_mounted(
    app: WsgiService, plain: Engine, mount: str
) -> None:
    envelope = booking("an entry")
    [first] = replies(ask(app, signed(envelope, mount=mount)), envelope)
    assert first.outcome is Outcome.DONE
    assert replies(ask(app, signed(envelope, mount=mount)), envelope) == [first]
    assert entries(plain) == ["an entry"]


def test_a_request_that_is_not_signed_is_turned_away(app: WsgiService, plain: Engine) -> None:
    environ = signed(booking("an entry"))
    body = environ["wsgi.input"].getvalue().replace(b"an entry", b"no entry")
    answer = ask(app, {**environ, "wsgi.input": io.BytesIO(body)})
    assert (answer.status, answer.code) == (401, "untrusted-request")
    assert answer.headers["content-type"] == "application/problem+json"
    # A delivery to another address is none to this one.
    assert ask(app, {**environ, "SCRIPT_NAME": "/elsewhere"}).status == 401
    assert entries(plain) == []


class _Input(io.BytesIO):
    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.taken = 0

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.taken += len(piece)
        return piece


def test_a_body_above_the_limit_is_not_read(app: WsgiService) -> None:
    body = _Input(bytes(MAX_BODY_BYTES + 1))
    length = str(MAX_BODY_BYTES + 1)
    answer = ask(
        app, environ_of("POST", "/messages", CONTENT_LENGTH=length, **{"wsgi.input": body})
    )
    assert (answer.status, answer.code, body.taken) == (413, "body-too-large", 0)
    assert "connection" not in answer.headers


def test_a_body_without_a_length_is_read_up_to_the_limit(app: WsgiService) -> None:
    body = _Input(bytes(3 * MAX_BODY_BYTES))
    variables = {"wsgi.input": body, "wsgi.input_terminated": True}
    answer = ask(app, environ_of("POST", "/messages", CONTENT_LENGTH="", **variables))
    assert (answer.status, answer.code) == (413, "body-too-large")
    assert body.taken <= MAX_BODY_BYTES + 64 * 1024


@pytest.mark.parametrize("length", ["", "many", "-1", "\xb2"])
def test_a_body_of_unknown_length_is_not_waited_for(app: WsgiService, length: str) -> None:
    body = _Input(b"never ends, as far as a server without the mark can tell")
    variables = {"CONTENT_LENGTH": length, "wsgi.input": body}
    answer = ask(app, environ_of("POST", "/messages", **variables))
    assert (answer.status, body.taken) == (401, 0)


class _Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the client is gone")


@pytest.mark.parametrize("body", [_Broken(), io.BytesIO(b"half")])
def test_a_client_that_goes_is_no_error(app: WsgiService, body: io.BytesIO) -> None:
    environ = environ_of("POST", "/messages", CONTENT_LENGTH="8", **{"wsgi.input": body})
    assert ask(app, environ).status == 400
    assert get(app, "/livez").status == 200


def test_requests_in_hand_are_bounded(app: WsgiService) -> None:
    most = 32
    go_on, inside = threading.Event(), threading.Semaphore(0)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            inside.release()
            go_on.wait(60)
            return super().read(size)

    environ = {**signed(booking("an entry"))}
    body = environ["wsgi.input"].getvalue()
    with ThreadPoolExecutor(most) as threads:
        try:
            waiting = [
                threads.submit(ask, app, {**environ, "wsgi.input": Slow(body)}) for _ in range(most)
            ]
            for _ in range(most):
                assert inside.acquire(timeout=60)
            answer = ask(app, environ)
            assert (answer.status, answer.code) == (503, "too-busy")
            assert answer.headers["retry-after"] == "1"
        finally:
            go_on.set()
    assert {it.result().status for it in waiting} <= {200, 503}


# --- Beginning and end ----------------------------------------------------------------------------


def test_nothing_begins_before_the_first_request(bank: Plain, plain: Engine) -> None:
    connected: list[object] = []
    for engine in (plain, bank.engine.sync_engine):
        event.listen(engine, "connect", lambda *it: connected.append(it))
    app = bank.wsgi(own)
    assert (in_background(), connected) == ([], [])
    assert get(app, "/").body == b"own"
    wait_until(lambda: connected, what="it has begun")
    assert in_background() == ["bank in the background"]
    app.stop()
    assert in_background() == []


async def test_a_message_that_a_view_adds_leaves(
    database_factory: DatabaseFactory, make_engine: MakeEngine, plain: Engine
) -> None:
    async with press(make_engine(database_factory(ledger_schema))) as paper:
        bank = bank_on(plain, peers={"press": paper.address}, routes={Noted: ["press"]})

        def publish(environ: Any, start_response: Any) -> list[bytes]:
            with bank.sessions.begin() as session:
                outbox.add(session, Noted("a", "read all about it"))
            return own(environ, start_response)

        app = bank.wsgi(publish)
        await asyncio.to_thread(get, app, "/publish")
        await until(lambda: paper.heard == ["read all about it"], what="the press hears of it")
        ready = await asyncio.to_thread(get, app, "/readyz")
        assert json.loads(ready.body)["checks"] == ["database", "relay", "work", "threads"]

        async def is_counted() -> bool:
            metrics = (await asyncio.to_thread(get, app, "/metrics")).body.decode()
            return 'relay_messages_total{destination="press",outcome="done"} 1.0' in metrics

        await until(is_counted, what="the relay counts it, once it has the answer")
        await asyncio.to_thread(app.stop)


def test_what_is_left_out_is_the_application_s(bank: Plain) -> None:
    app = bank.wsgi(own, metrics=False)
    assert get(app, "/metrics").body == b"own"
    assert get(app, "/livez").body == b'{"status":"alive"}'
    app.stop()


def test_an_unknown_address_of_a_service_alone_is_a_problem(app: WsgiService) -> None:
    assert get(app, "/else").code == "unknown-address"


def test_the_end_waits_for_the_handlers_in_hand_and_nothing_begins_after_it(
    bank: Plain, plain: Engine
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    @bank.on(Noted)
    def noted(session: Session, event: Noted, context: outbox.Context) -> None:
        inside.set()
        go_on.wait(30)
        session.execute(insert(ledger).values(entry=event.entry, by=context.id))

    app = bank.wsgi()
    app.start()
    envelope = booking("a note", type="press.noted.v1")
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(ask, app, signed(envelope))
        assert inside.wait(30)
        stopped = threads.submit(app.stop)
        wait_until(lambda: get(app, "/livez").status == 503, what="nothing new is taken")
        go_on.set()
        stopped.result(60)
        assert [it.outcome for it in replies(asked.result(60), envelope)] == [Outcome.DONE]
    assert entries(plain) == ["a note"]
    assert get(app, "/livez").code == "ending"


def test_a_start_without_tables_is_an_error(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    plain = make_sync_engine(database_factory("empty"))
    bank = bank_on(plain, peers={"press": NOWHERE})
    app = bank.wsgi(own)
    with pytest.raises(SchemaMissing):
        app.start()
    assert get(app, "/").body == b"own"
    assert get(app, "/livez").status == 200
    assert get(app, "/readyz").code == "not-ready"
    with plain.begin() as connection:
        metadata.create_all(connection)
        ledger.create(connection)
    wait_until(lambda: get(app, "/readyz").status == 200, 30, "it starts by itself")
    app.stop()


async def test_an_asynchronous_service_is_refused(
    make_engine: MakeEngine, database: Database
) -> None:
    service = make_service(make_engine(database))
    with pytest.raises(InvalidService, match=r"has an AsyncEngine.*give the service an Engine"):
        service.wsgi()
