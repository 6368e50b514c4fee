"""docs/operate/cdc.md: its SQL runs, its service works, and its connector's configuration fits to
the table and to what the log shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox import tables
from outbox.relay.settings import RelaySettings
from outbox.transports.memory import MemoryTransport
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.databases.logical_log import Change, Values, log_reader
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.services import NOWHERE, SECRETS
from tests.support.processes.waiting import until
from tests.support.repository.manual import blocks

pytestmark = pytest.mark.databases("postgresql")

PAGE = "docs/operate/cdc.md"
PUBLICATION, ROLE, LAG = blocks(PAGE, "sql")
(CONNECTOR,) = map(json.loads, blocks(PAGE, "json"))
CONFIG: Mapping[str, str] = CONNECTOR["config"]
COLUMNS = [it.name for it in tables.outbox.columns]
ROUTER = "transforms.outbox."


@dataclass(frozen=True)
class ArticlePublished(outbox.Event, type="articles.article-published.v1", key="article"):
    article: str
    title: str = "Tides"


@pytest.fixture
def admin(make_sync_engine: MakeSyncEngine, database: Database) -> Iterator[Engine]:
    """A superuser, after the page's statements were run. The role is the server's, and goes with
    the test."""
    engine = make_sync_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(PUBLICATION)
        connection.exec_driver_sql(ROLE)
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY debezium CASCADE"))
        connection.execute(text("DROP ROLE debezium"))


def service_of(engine: AsyncEngine) -> outbox.Service:
    """The service of the page, with a second peer, which is sent its messages."""
    (shown,) = blocks(PAGE, "python")
    given = {"peers={": f'peers={{"press": {NOWHERE!r}, ', '["kafka"]': '["press", "kafka"]'}
    for part, ours in given.items():
        assert part in shown
        shown = shown.replace(part, ours)
    options = "transports={'press': press}, secrets=secrets, relay=relay)"
    shown = re.sub(r"\)\s*\Z", options, shown)
    names: dict[str, Any] = {
        "outbox": outbox,
        "engine": engine,
        "ArticlePublished": ArticlePublished,
        "press": MemoryTransport(take),
        "secrets": SECRETS,
        "relay": RelaySettings(poll=0.02),
    }
    exec(compile(shown, PAGE, "exec"), names)
    service = names["service"]
    assert isinstance(service, outbox.Service)
    return service


async def take(envelopes: Sequence[outbox.Envelope], _settled: object) -> list[outbox.Reply]:
    """What the other peer does."""
    return [outbox.Reply(outbox.Outcome.DONE)] * len(envelopes)


# --- The connector --------------------------------------------------------------------------------


def listed(option: str) -> list[str]:
    return CONFIG[option].split(",")


def test_the_names_of_the_connector_are_those_of_the_page() -> None:
    assert f"CREATE PUBLICATION {CONFIG['publication.name']} FOR TABLE outbox" in PUBLICATION
    assert CONFIG["publication.autocreate.mode"] == "disabled"
    assert f"CREATE ROLE {CONFIG['database.user']} " in ROLE
    assert CONFIG["slot.name"] in (ROOT / PAGE).read_text().split("LogReader(")[1]
    assert CONFIG["table.include.list"] == CONFIG["snapshot.select.statement.overrides"]
    assert all(isinstance(value, str) for value in CONFIG.values())


def test_the_router_reads_columns_that_the_table_has() -> None:
    fields = [CONFIG[f"{ROUTER}table.field.event.{it}"] for it in ("id", "key", "payload")]
    placed = [it.split(":") for it in listed(f"{ROUTER}table.fields.additional.placement")]
    by = CONFIG[f"{ROUTER}route.by.field"]
    assert {by, *fields, *(it[0] for it in placed)} <= set(COLUMNS)
    assert {it[1] for it in placed} == {"header"}
    left_out = [it.rpartition(".") for it in listed("column.exclude.list")]
    assert {(table, column) for table, _, column in left_out} == {("public.outbox", "xid")}


def test_the_page_tells_of_each_column() -> None:
    lines = (ROOT / PAGE).read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(COLUMNS)


def test_the_settings_of_the_server_are_there(admin: Engine) -> None:
    (block,) = blocks(PAGE, "ini")
    told = dict(line.split(" = ") for line in block.strip().splitlines())
    assert list(told) == ["wal_level", "max_slot_wal_keep_size"]
    with admin.connect() as connection:
        known = text("SELECT name, unit, enumvals FROM pg_settings WHERE name = ANY(:names)")
        found = {it.name: it for it in connection.execute(known, {"names": list(told)})}
    assert told["wal_level"] in found["wal_level"].enumvals
    assert found["max_slot_wal_keep_size"].unit == "MB"
    assert re.fullmatch(r"\d+GB", told["max_slot_wal_keep_size"])


# --- The log --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What the router makes of a row."""

    topic: str
    key: str | None
    value: str | None
    headers: Mapping[str, str | None]


def routed(row: Values) -> Record:
    """The row as the configuration tells Debezium's event router to pass it on."""
    placed = [it.split(":") for it in listed(f"{ROUTER}table.fields.additional.placement")]
    headers = {"id": row[CONFIG[f"{ROUTER}table.field.event.id"]]}
    headers |= {name: row[column] for column, _, name in placed}
    by = row[CONFIG[f"{ROUTER}route.by.field"]]
    return Record(
        CONFIG[f"{ROUTER}route.topic.replacement"].replace("${routedByValue}", str(by)),
        row[CONFIG[f"{ROUTER}table.field.event.key"]],
        row[CONFIG[f"{ROUTER}table.field.event.payload"]],
        headers,
    )


async def test_events_come_out_as_the_page_says_and_the_service_deletes_them(
    admin: Engine, database: Database, engine: AsyncEngine
) -> None:
    service = service_of(engine)
    seen: list[Change] = []

    async def add(*articles: str) -> list[str]:
        async with service.sessions.begin() as session:
            return [outbox.add(session, ArticlePublished(it)) for it in articles]

    waited = await add("a-1", "a-2")
    with admin.connect() as connection:
        assert as_snapshot(connection) == [("a-1", "kafka"), ("a-2", "kafka")]
    with log_reader(database, CONFIG["publication.name"], slot=CONFIG["slot.name"]) as reader:
        ids = await add("a-3", "a-4", "a-3")

        async def is_read() -> bool:
            with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(CONFIG["heartbeat.action.query"])
            seen.extend(reader.take())
            async with engine.connect() as connection:
                return (await connection.scalars(text("SELECT 1 FROM outbox"))).first() is None

        async with service.running():
            await until(is_read, what="all rows are gone")
    assert waited
    assert {it.kind for it in seen} == {"insert"}, "the publication has inserts alone"
    rows = [it.new for it in seen if it.new is not None]
    assert {row["destination"] for row in rows} == {"kafka"}, "and those for this reader"
    records = [routed(row) for row in rows]
    assert [it.headers["id"] for it in records] == ids
    assert [it.key for it in records] == ["a-3", "a-4", "a-3"]
    assert {it.topic for it in records} == {"events.articles"}
    assert {it.headers["ce_type"] for it in records} == {"articles.article-published.v1"}
    assert [json.loads(str(it.value)) for it in records] == [
        {"article": str(it.key), "title": "Tides"} for it in records
    ]
    assert {json.loads(str(it.headers["sagabox"]))["source"] for it in records} == {"articles"}


def as_snapshot(connection: Connection) -> Sequence[tuple[str, str]]:
    """The keys and destinations of what the first snapshot shows."""
    (table,) = listed("snapshot.select.statement.overrides")
    rows = connection.exec_driver_sql(CONFIG[f"snapshot.select.statement.overrides.{table}"])
    return [(row.aggregateid, row.destination) for row in rows]


def test_a_publication_of_deletes_with_a_condition_would_stop_them(admin: Engine) -> None:
    """As the page says of `publish = 'insert'`."""
    with admin.connect() as connection:
        another = PUBLICATION.replace(" WITH (publish = 'insert')", "")
        assert another != PUBLICATION
        connection.exec_driver_sql(another.replace("articles_outbox", "articles_all"))
        with pytest.raises(ProgrammingError, match='cannot delete from table "outbox"'):
            connection.execute(tables.outbox.delete())


def test_the_role_may_read_the_table_and_write_nothing(admin: Engine) -> None:
    with admin.begin() as connection:
        connection.execute(text("SET LOCAL ROLE debezium"))
        assert as_snapshot(connection) == []
        may = "SELECT has_table_privilege('outbox', :what)"
        for what, is_so in {"SELECT": True, "INSERT": False, "DELETE": False}.items():
            assert connection.scalar(text(may), {"what": what}) is is_so
        reads = text("SELECT rolreplication FROM pg_roles WHERE rolname = 'debezium'")
        assert connection.scalar(reads) is True


def test_the_look_at_the_slots_shows_what_each_keeps(admin: Engine, database: Database) -> None:
    slot = CONFIG["slot.name"]
    with log_reader(database, CONFIG["publication.name"], slot=slot), admin.connect() as connection:
        (row,) = [it for it in connection.exec_driver_sql(LAG) if it.slot_name == slot]
    assert (row.active, row.wal_status) == (False, "reserved")
    assert re.fullmatch(r"\d+ (bytes|kB|MB)", row.keeps)
