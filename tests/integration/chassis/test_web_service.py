"""How a service of the blog starts, works beside its requests, and stops."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, insert, select, text

from articles.contract import ArticlePublished
from comments.contract import CloseThread, ReopenThread
from outbox import schema, tables
from outbox.chassis.service import CannotStart
from outbox.chassis.settings import InvalidSettings, ServiceSettings, load
from outbox.errors import SchemaMissing, SchemaNewer, SchemaOlder
from outbox.ids import compose, derive, first_at
from outbox.relay.relay import Relay
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.transports.memory import MemoryTransport
from outbox.wire.envelope import BATCH, Envelope, to_batch
from outbox.wire.settled import MAX_LIVE, EndedSagas
from tests.support.blog.blog import (
    START,
    Running,
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    envelope,
    new_id,
    running,
)
from tests.support.databases.databases import Database, Kind, PostgresTemplates
from tests.support.databases.postgres import PostgresServer, Stop
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.waiting import until

TIDES = {"title": "Tides", "body": "High and low.", "author": "Ada"}


@asynccontextmanager
async def _started(service: Running) -> AsyncIterator[None]:
    async with service.app.router.lifespan_context(service.app):
        yield


async def _is_ready(service: Running) -> bool:
    """Whether it says so now; a check that a busy machine makes late counts as failed."""
    return (await service.http.get("/readyz")).status_code == 200


def _change(database: Database, *statements: str) -> None:
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _record(database: Database, revision: str, kind: str) -> None:
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        schema.record_revision(connection, revision, kind, datetime(2031, 1, 1, tzinfo=UTC))
    engine.dispose()


async def test_a_started_service_is_ready_and_a_stopped_one_is_not(
    database_factory: DatabaseFactory,
) -> None:
    async with running(articles_app(database_factory(articles_schema))) as articles:
        before = await articles.http.get("/readyz")
        assert (before.status_code, before.json()["code"]) == (503, "not-ready")
        assert "relay" in before.json()["detail"]
        async with _started(articles):
            ready = await articles.http.get("/readyz")
            assert (ready.status_code, ready.json()["checks"]) == (
                200,
                ["database", "relay", "work"],
            )
            assert (await articles.http.get("/livez")).status_code == 200
            for path in ("/docs", "/openapi.json", "/metrics"):
                assert (await articles.http.get(path)).status_code == 200
            for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
                head = await articles.http.head(path)
                assert (head.status_code, head.content) == (200, b""), path
        assert (await articles.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize("below", ["/blog", ""], ids=["kept by the proxy", "taken off by it"])
async def test_a_service_below_a_prefix_names_its_addresses_with_it(
    database_factory: DatabaseFactory, below: str
) -> None:
    app = articles_app(database_factory(articles_schema), root_path="/blog")
    async with running(app) as articles, _started(articles):
        given = {"title": "T", "body": "b", "author": "a"}
        made = await articles.http.post(f"{below}/articles", json=given)
        assert made.headers["location"] == f"/blog/articles/{made.json()['id']}"
        assert (await articles.http.get(made.headers["location"])).status_code == 200


@pytest.mark.parametrize("prefix", ["blog", "/blog/", "/", "//blog", "/bl og"])
def test_a_prefix_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", "one:" + "c2VjcmV0" * 8)
    monkeypatch.setenv("SAGABOX_ROOT_PATH", prefix)
    with pytest.raises(InvalidSettings, match=r"SAGABOX_ROOT_PATH: .* is no prefix of paths"):
        load(ServiceSettings)


@pytest.mark.parametrize(
    ("prepare", "error"),
    [("empty", SchemaMissing), ("older", SchemaOlder), ("newer", SchemaNewer)],
)
async def test_a_service_refuses_to_start_on_a_database_of_another_revision(
    database_factory: DatabaseFactory, prepare: str, error: type[Exception]
) -> None:
    database = database_factory("empty" if prepare == "empty" else articles_schema)
    if prepare == "older":
        _change(database, "UPDATE schema_revision SET revision = 'articles_0000'")
    elif prepare == "newer":
        _record(database, "articles_9999", "contract")
    async with running(articles_app(database)) as articles:
        with pytest.raises(error, match="migrate upgrade articles"):
            async with _started(articles):
                raise AssertionError("it started")


async def test_a_service_starts_on_a_newer_database_that_only_has_more(
    database_factory: DatabaseFactory,
) -> None:
    database = database_factory(articles_schema)
    _record(database, "articles_9999", "expand")
    async with running(articles_app(database)) as articles, _started(articles):
        await until(partial(_is_ready, articles), what="it is ready")


@pytest.mark.databases("postgresql")
async def test_a_service_whose_database_is_away_says_which_address_to_look_at(
    database: Database,
) -> None:
    away = Database(database.kind, "postgresql+asyncpg://user@127.0.0.1:1/nothing", "")
    async with running(articles_app(away)) as articles:
        with pytest.raises(CannotStart, match="SAGABOX_DATABASE_URL_ARTICLES"):
            async with _started(articles):
                raise AssertionError("it started")
        answer = await articles.http.get("/articles")
        assert (answer.status_code, answer.json()["code"]) == (503, "database-away")
        assert "retry-after" in answer.headers


@pytest.mark.databases("postgresql")
async def test_a_service_that_cannot_log_in_says_why_and_what_to_correct(
    database: Database,
) -> None:
    async def ask_in_an_old_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # whether the server takes TLS
        writer.write(b"N")
        await reader.read(1024)  # who wants to log in
        writer.write(b"R" + struct.pack(">ii", 8, 6))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(ask_in_an_old_way, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql+asyncpg://user@127.0.0.1:{port}/nothing"
        async with running(articles_app(Database(database.kind, url, ""))) as articles:
            with pytest.raises(CannotStart, match="unsupported authentication") as refused:
                async with _started(articles):
                    raise AssertionError("it started")
    assert "SAGABOX_DATABASE_URL_ARTICLES" in refused.value.next_step


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


async def test_a_database_that_goes_away_is_a_503_until_it_is_back(
    own_server: PostgresServer,
) -> None:
    templates = PostgresTemplates(own_server)
    database = templates.fresh(articles_schema)
    async with running(articles_app(database)) as articles, _started(articles):
        assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
        own_server.stop(Stop.IMMEDIATE)
        for _ in range(2):
            answer = await articles.http.post("/articles", json=TIDES)
            assert answer.status_code == 503
            assert answer.json()["code"] in ("database-away", "database-connection-lost")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await articles.http.get("/readyz")).status_code == 503
        assert (await articles.http.get("/livez")).status_code == 200
        assert "sagabox_database_up 0.0" in (await articles.http.get("/metrics")).text
        own_server.start()
        assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
        assert len((await articles.http.get("/articles")).json()["items"]) == 2
        await until(partial(_is_ready, articles), what="it is ready")


async def test_a_lock_that_another_client_keeps_is_a_503_and_changes_nothing(
    database_factory: DatabaseFactory,
) -> None:
    database = database_factory(articles_schema)
    async with running(articles_app(database)) as articles:
        made = await articles.http.post("/articles", json=TIDES)
        engine = create_engine(database.sync_url)
        with engine.connect() as other:
            if database.kind is Kind.SQLITE:
                other.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                other.execute(text("SELECT * FROM articles FOR UPDATE"))
            async with asyncio.timeout(20):  # readers wait for no writer
                read = await articles.http.get(made.headers["location"])
            assert read.json() == made.json()
            answer = await articles.http.put(
                made.headers["location"], json=TIDES, headers={"if-match": "*"}
            )
            assert (answer.status_code, answer.json()["code"]) == (503, "database-busy")
            other.rollback()
        engine.dispose()
        assert (await articles.http.get(made.headers["location"])).json() == made.json()


@pytest.mark.databases("sqlite")
async def test_a_full_disk_is_a_503_and_changes_nothing(
    database_factory: DatabaseFactory,
) -> None:
    database = database_factory(articles_schema)
    async with running(articles_app(database, pool_size=1, pool_overflow=0)) as articles:
        made = await articles.http.post("/articles", json=TIDES)
        async with articles.chassis.database.engine.connect() as connection:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        answer = await articles.http.post("/articles", json=TIDES | {"body": "x" * 100_000})
        assert (answer.status_code, answer.json()["code"]) == (503, "database-full")
        listed = (await articles.http.get("/articles")).json()["items"]
        assert [item["id"] for item in listed] == [made.json()["id"]]


async def test_metrics_say_that_a_purge_stops_where_the_orchestrator_cannot_be_asked(
    database_factory: DatabaseFactory,
) -> None:
    """Comments has no way to it."""
    database = database_factory(comments_schema)
    old = START - timedelta(days=40)
    runs = [compose(int(old.timestamp() * 1000), number) for number in range(MAX_LIVE + 1)]
    row = {"consumer": "comments", "source": "orchestrator", "state": "ran", "received_at": old}
    stopped = 'sagabox_inbox_stopped_purges{orchestrator="orchestrator",reason="no-way"} 1.0'
    async with running(comments_app(database)) as comments:
        async with comments.chassis.database.sessions.begin() as session:
            command = derive(runs[-1], "command")
            await session.execute(insert(tables.inbox), [row | {"id": command, "saga": runs[-1]}])
        for said, is_stopped in (
            (EndedSagas(runs[-1], frozenset(runs[:-1])), True),
            (EndedSagas(first_at(START)), False),
        ):
            news = replace(envelope(ReopenThread(new_id())), source="orchestrator")
            await comments.chassis.service.inbox.receive([news], said)
            await comments.chassis.service.inbox.purge()
            assert (stopped in (await comments.http.get("/metrics")).text) is is_stopped
        async with comments.chassis.database.sessions() as session:
            ids = (await session.scalars(select(tables.inbox.c.id))).all()
        assert command not in ids


async def test_metrics_show_what_stands_in_the_outbox(database_factory: DatabaseFactory) -> None:
    async with running(articles_app(database_factory(articles_schema))) as articles:
        for _ in range(3):
            await articles.http.post("/articles", json=TIDES)
        article = (await articles.http.get("/articles?limit=1")).json()["items"][0]["id"]
        await articles.http.delete(f"/articles/{article}")
        dead = {
            "id": new_id(),
            "destination": "search",
            "bucket": 16,
            "aggregatetype": "articles",
            "aggregateid": article,
            "type": "articles.article-published.v1",
            "payload": "{}",
            "headers": "{}",
            "occurred_at": START,
            "reason": "no receiver there",
            "attempts": 12,
            "died_at": START,
        }
        async with articles.chassis.database.engine.begin() as connection:
            await connection.execute(insert(tables.outbox_dead), dead)
        figures = {
            (sample.name, sample.labels.get("destination")): sample.value
            for family in text_string_to_metric_families((await articles.http.get("/metrics")).text)
            for sample in family.samples
        }
    assert figures["sagabox_outbox_unsent_messages", "comments"] == 3
    assert figures["sagabox_outbox_unsent_messages", "orchestrator"] == 1
    assert figures["sagabox_outbox_dead_letters", "search"] == 1
    assert figures["sagabox_outbox_dead_letters", "comments"] == 0
    assert figures["sagabox_database_up", None] == 1


async def test_events_flow_from_articles_to_comments_while_both_run(
    database_factory: DatabaseFactory,
) -> None:
    async with running(comments_app(database_factory(comments_schema))) as comments:

        async def receive(envelopes: Sequence[Envelope], settled: EndedSagas | None) -> object:
            return await comments.chassis.service.inbox.receive(envelopes, settled)

        transports = {"comments": MemoryTransport(receive)}  # type: ignore[arg-type]  # it answers
        app = articles_app(database_factory(articles_schema), transports)
        async with running(app) as articles, _started(articles), _started(comments):
            made = await articles.http.post("/articles", json=TIDES)
            path = made.headers["location"]
            edit = {"title": "Moons", "body": "Two."}
            await articles.http.put(path, json=edit, headers={"if-match": '"1"'})
            article = made.json()["id"]

            async def heard() -> bool:
                answer = await comments.http.get(f"/threads/{article}")
                return answer.is_success and answer.json()["events"] == 2

            await until(heard, what="both events are heard")
            thread = (await comments.http.get(f"/threads/{article}")).json()
            assert (thread["title"], thread["version"], thread["out_of_order"]) == ("Moons", 2, 0)
            received = (await comments.http.get("/metrics")).text
            assert 'sagabox_inbox_messages_total{outcome="done"} 2.0' in received
            sent = (await articles.http.get("/metrics")).text
            assert 'destination="comments",outcome="done"} 2.0' in sent


@pytest.mark.databases("postgresql")
async def test_the_services_work_with_psycopg_too(database_factory: DatabaseFactory) -> None:
    def with_psycopg(database: Database) -> Database:
        return replace(database, url=database.sync_url)

    articles_at = with_psycopg(database_factory(articles_schema))
    comments_at = with_psycopg(database_factory(comments_schema))
    async with (
        running(articles_app(articles_at)) as articles,
        running(comments_app(comments_at)) as comments,
        _started(articles),
        _started(comments),
    ):
        made = await articles.http.post("/articles", json=TIDES)
        article, saga = made.json()["id"], new_id()
        (event,) = await articles.outbox(ArticlePublished)
        await comments.tell(event)
        new = {"article_id": article, "author": "Bob", "content": "Well said."}
        assert (await comments.http.post("/comments", json=new)).status_code == 201
        closed = await comments.tell(CloseThread(article), saga=saga)
        assert closed.value == {"comments": 1}
        assert (await comments.http.post("/comments", json=new)).status_code == 409
        assert (await comments.tell(ReopenThread(article), saga=saga)).value == {"comments": 1}
        await articles.http.delete(made.headers["location"])
        await until(partial(_is_ready, articles), what="it is ready")
        assert "sagabox_database_up 1.0" in (await articles.http.get("/metrics")).text


class _Stuck:
    """A destination that takes a message and never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.asked.set()
        await asyncio.Event().wait()
        return Answered(())

    async def aclose(self) -> None:
        self.closed = True


async def test_a_service_that_is_told_to_stop_does_not_wait_for_ever(
    database_factory: DatabaseFactory,
) -> None:
    stuck = _Stuck()
    database = database_factory(articles_schema)
    async with running(articles_app(database, {"comments": stuck}, drain_seconds=0.2)) as articles:
        async with AsyncExitStack() as until_stopped:
            await until_stopped.enter_async_context(_started(articles))
            await articles.http.post("/articles", json=TIDES)
            await stuck.asked.wait()
            async with asyncio.timeout(30):
                await until_stopped.aclose()
        assert len(await articles.outbox(ArticlePublished)) == 1


@pytest.mark.databases("sqlite")
async def test_a_service_whose_relay_ended_says_so(
    database_factory: DatabaseFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: Relay, stop: asyncio.Event) -> None:
        raise RuntimeError("out of order")

    async with running(articles_app(database_factory(articles_schema))) as articles:
        monkeypatch.setattr(Relay, "run", broken)
        async with _started(articles):
            answer = await articles.http.get("/readyz")
            assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
            assert "relay" in answer.json()["detail"]
            assert "sagabox_relay_running 0.0" in (await articles.http.get("/metrics")).text
            assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
    assert "out of order" in caplog.text


class _Away:
    """A destination that is down."""

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        return Unreachable("no receiver there", sent=False)

    async def aclose(self) -> None:
        pass


async def test_requests_are_served_while_a_destination_is_down(
    database_factory: DatabaseFactory,
) -> None:
    app = articles_app(database_factory(articles_schema), {"comments": _Away()})
    async with running(app) as articles, _started(articles):
        for _ in range(3):
            assert (await articles.http.post("/articles", json=TIDES)).status_code == 201
        await until(partial(_is_ready, articles), what="it is ready")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"secrets": "nonsense"}, "SAGABOX_SECRETS"),
        ({"secrets": "k1:c2hvcnQ="}, "SAGABOX_SECRETS"),
        ({"signing_key": "other"}, "SAGABOX_SIGNING_KEY"),
    ],
)
def test_secrets_that_cannot_be_are_refused_by_name(
    database: Database, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(InvalidSettings, match=named) as caught:
        comments_app(database, **settings)
    assert "c2hvcnQ" not in str(caught.value)


async def test_a_message_without_a_signature_is_a_401_and_has_no_effect(
    database_factory: DatabaseFactory,
) -> None:
    async with running(comments_app(database_factory(comments_schema))) as comments:
        article = new_id()
        answer = await comments.http.post(
            "/messages",
            content=to_batch([envelope(ArticlePublished(article, "Tides", "Ada", 1))]),
            headers={"content-type": BATCH},
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "untrusted-request")
        assert (await comments.http.get(f"/threads/{article}")).status_code == 404
