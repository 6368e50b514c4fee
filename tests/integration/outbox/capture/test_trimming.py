"""A destination that a reader of PostgreSQL's log serves: nothing is sent to it, and its rows go
once the reader has confirmed them, never before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import outbox
from outbox.capture import trimmer as trimming
from outbox.capture.trimmer import Together, Trimmer
from outbox.clock import SystemClock
from outbox.coordination.progress import Progress
from outbox.relay.settings import RelaySettings
from outbox.tables import DEFAULT_TABLES
from outbox.transports.base import Answered, Delivery
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database, Schema
from tests.support.databases.logical_log import Change, LogReader, log_reader, publish
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.outbox.capturing import waiting
from tests.support.outbox.inboxes import Book, Noted, ledger_schema
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql", "older-postgresql")

QUICKLY = RelaySettings(poll=0.02)


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def slot(database: Database) -> str:
    # The name of a slot is one of the whole server.
    return database.url.rpartition("/")[2]


@pytest.fixture
def reader(database: Database, engine: AsyncEngine, slot: str) -> Iterator[LogReader]:
    publish(database, slot, "outbox")
    with log_reader(database, slot, slot=slot) as opened:
        yield opened


def trimmer(engine: AsyncEngine, slot: str, *, keep: float = 0.0) -> Trimmer:
    clock = SystemClock()
    return Trimmer(
        engine,
        {"kafka": outbox.LogReader(slot, keep=keep)},
        service="till",
        clock=clock,
        tables=DEFAULT_TABLES,
        progress=Progress(clock.monotonic),
        poll=0.02,
    )


async def add(connection: AsyncConnection, key: str, **options: Any) -> str:
    """Its id; it is in the database at once."""
    message = Noted(key, "an event")
    return await connection.run_sync(lambda it: outbox.add(it, message, **options))


def keys(changes: Sequence[Change]) -> list[str | None]:
    return [it.new["aggregateid"] for it in changes if it.new is not None]


@asynccontextmanager
async def till(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """The engine, whose connections add."""
    outbox.install(engine, source="till", routes={Noted: ["kafka"]})
    yield engine


async def test_a_row_goes_once_the_reader_has_confirmed_it(
    engine: AsyncEngine, reader: LogReader, slot: str
) -> None:
    async with till(engine) as sender:
        async with sender.begin() as connection:
            await add(connection, "a")
        trim = trimmer(engine, slot)
        for _ in range(3):
            assert await trim.run_once() == 0, "no reader has read it"
        assert keys(reader.catch_up()) == ["a"]
        assert await trim.run_once() == 1
        assert await waiting(engine) == []


async def test_what_commits_after_the_reader_looked_stays_until_it_looks_again(
    engine: AsyncEngine, reader: LogReader, slot: str
) -> None:
    """Its number is smaller than that of a row which was read; the order of the numbers tells
    nothing of what was committed."""
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.connect() as slow:
        await slow.begin()
        await add(slow, "slow")
        async with sender.begin() as quick:
            await add(quick, "quick")
        await trim.run_once()
        assert keys(reader.catch_up()) == ["quick"]
        # The reader has confirmed all of the log that there is, with this row in it.
        await slow.commit()
        for _ in range(3):
            assert await trim.run_once() == 0
        assert await waiting(engine) == ["slow", "quick"]
        assert keys(reader.catch_up()) == ["slow"]
        await trim.run_once()
        async with sender.begin() as connection:
            await add(connection, "later")
        reader.catch_up()
        await trim.run_once()
        await until(lambda: _is_empty(engine, trim, reader), what="all were read")


async def _is_empty(engine: AsyncEngine, trim: Trimmer, reader: LogReader) -> bool:
    reader.catch_up()
    await trim.run_once()
    return await waiting(engine) == []


async def test_what_others_are_sent_stays(
    engine: AsyncEngine, reader: LogReader, slot: str
) -> None:
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "mine")
        await add(connection, "of the relay", to="press")
    await trim.run_once()
    reader.catch_up()
    assert await trim.run_once() == 1
    assert await waiting(engine) == ["of the relay"]


async def test_a_row_is_kept_as_long_as_was_asked(
    engine: AsyncEngine, reader: LogReader, slot: str
) -> None:
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    for keep, stays in ((3600.0, ["a"]), (0.0, [])):
        trim = trimmer(engine, slot, keep=keep)
        await trim.run_once()
        reader.catch_up()
        await trim.run_once()
        assert await waiting(engine) == stays


async def test_without_a_slot_nothing_is_deleted_and_the_log_says_so_once(
    engine: AsyncEngine, database: Database, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "outbox.capture")
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    for _ in range(3):
        assert await trim.run_once() == 0
    (said,) = [it.getMessage() for it in caplog.records if it.name == "outbox.capture"]
    assert said == (
        "till: no log reader takes the messages for kafka, which stay in the outbox: there is no "
        f"replication slot {slot}; docs/operate/cdc.md says what to do"
    )
    publish(database, slot, "outbox")
    with log_reader(database, slot, slot=slot) as late:
        # It begins behind the message, which only a snapshot of the table shows to its reader.
        for _ in range(3):
            assert await trim.run_once() == 0
        late.catch_up()
        await trim.run_once()
    await trim.run_once()
    assert [it.levelname for it in caplog.records if it.name == "outbox.capture"] == [
        "WARNING",
        "INFO",
        "WARNING",
    ]


async def test_a_slot_that_was_made_anew_has_confirmed_nothing(
    engine: AsyncEngine, database: Database, slot: str
) -> None:
    publish(database, slot, "outbox")
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    with log_reader(database, slot, slot=slot):
        await trim.run_once()
    await trim.run_once()
    with log_reader(database, slot, slot=slot):
        for _ in range(3):
            assert await trim.run_once() == 0
    assert await waiting(engine) == ["a"]


async def test_a_slot_of_another_database_is_none(
    engine: AsyncEngine,
    database_factory: DatabaseFactory,
    slot: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    elsewhere = database_factory(ledger_schema)
    publish(elsewhere, slot, "outbox")
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    with log_reader(elsewhere, slot, slot=slot) as other:
        await trim.run_once()
        other.catch_up()
        await trim.run_once()
    assert await waiting(engine) == ["a"]
    assert "is no logical one of this database" in caplog.text


async def publishing(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


async def test_without_its_publication_nothing_is_deleted(
    engine: AsyncEngine, reader: LogReader, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    await publishing(engine, f"ALTER PUBLICATION {slot} SET (publish = 'delete')")
    await trim.run_once()
    assert f"no publication {slot} shows what is inserted there" in caplog.text
    reader.catch_up()
    await trim.run_once()
    assert await waiting(engine) == ["a"]


@pytest.mark.databases("postgresql")  # PostgreSQL 14 has no filters
async def test_what_the_publication_hides_from_the_reader_stays_and_is_told(
    engine: AsyncEngine, reader: LogReader, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The name of the destination stands in the service and in the publication; where they differ,
    the reader confirms a log in which it saw nothing."""
    trim = trimmer(engine, slot)
    await publishing(engine, f"ALTER PUBLICATION {slot} SET (publish = 'insert')")
    await publishing(engine, f"ALTER PUBLICATION {slot} SET TABLE outbox WHERE (destination = 'x')")
    async with till(engine) as sender, sender.begin() as connection:
        await add(connection, "a")
    for _ in range(3):
        await trim.run_once()
        assert reader.catch_up() == []
    assert await waiting(engine) == ["a"]
    assert caplog.text.count(f"the publication {slot} does not show all of them") == 1
    odd = "destination <> 'a:b%c' AND destination LIKE 'kaf%'"
    await publishing(engine, f"ALTER PUBLICATION {slot} SET TABLE outbox WHERE ({odd})")
    await trim.run_once()
    reader.catch_up()
    await trim.run_once()
    assert await waiting(engine) == []


async def test_several_trimmers_share_the_rows(
    engine: AsyncEngine, reader: LogReader, slot: str
) -> None:
    trimmers = [trimmer(engine, slot) for _ in range(3)]
    async with till(engine) as sender, sender.begin() as connection:
        for number in range(50):
            await add(connection, f"k{number}")
    assert [await it.run_once() for it in trimmers] == [0, 0, 0]
    reader.catch_up()
    assert sum(await asyncio.gather(*(it.run_once() for it in trimmers))) == 50
    assert await waiting(engine) == []


async def test_more_than_one_portion_goes_by_one_confirmation(
    engine: AsyncEngine, reader: LogReader, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "_AT_ONCE", 2)
    trim = trimmer(engine, slot)
    async with till(engine) as sender, sender.begin() as connection:
        for number in range(5):
            await add(connection, f"k{number}")
    await trim.run_once()
    reader.catch_up()
    assert [await trim.run_once() for _ in range(4)] == [2, 2, 1, 0]


async def test_an_error_of_the_carrier_ends_the_trimmer_too(engine: AsyncEngine, slot: str) -> None:
    class Broken:
        async def run(self, stop: asyncio.Event) -> None:
            await asyncio.sleep(0)
            raise LookupError

    before = asyncio.all_tasks()
    with pytest.raises(LookupError):
        await Together(Broken(), trimmer(engine, slot)).run(asyncio.Event())
    assert asyncio.all_tasks() == before


# --- In a service ---------------------------------------------------------------------------------


class Press:
    """A peer that takes all that comes."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.taken += [it.key for it in envelopes]
        return Answered([outbox.Reply(outbox.Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def test_a_service_sends_to_its_peers_and_leaves_the_rest_to_the_reader(
    engine: AsyncEngine, reader: LogReader, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    press = Press()
    service = make_service(
        engine,
        peers={"press": NOWHERE, "kafka": outbox.LogReader(slot)},
        transports={"press": press},
        routes={Noted: ["press", "kafka"]},
        relay=QUICKLY,
    )
    seen: list[Change] = []

    async def is_read() -> bool:
        seen.extend(reader.catch_up())
        return await waiting(engine) == []

    async with service.running():
        async with service.sessions.begin() as session:
            outbox.add(session, Noted("a", "an event"))
        await until(lambda: press.taken == ["a"], what="it is sent to the peer")
        await until(is_read, what="both rows are gone")
        assert service.is_carrying
        assert "trim what was read" in service.progress.stalled
    inserted = [it.new for it in seen if it.kind == "insert"]
    assert [it["destination"] for it in inserted if it] == ["press", "kafka"]
    assert {it.kind for it in seen} <= {"insert", "delete"}
    assert "waits for kafka" not in caplog.text


async def test_a_service_without_other_peers_needs_no_keys_and_no_transport(
    engine: AsyncEngine, reader: LogReader, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_PEERS", f"kafka=log://{slot}")
    service = make_service(engine, peers=None, routes={Noted: ["kafka"]}, relay=QUICKLY)
    assert service.log_readers == {"kafka": outbox.LogReader(slot)}
    soon = SystemClock().now() + timedelta(seconds=0.2)
    async with service.sessions.begin() as session:
        outbox.add(session, Noted("now", "an event"))
        outbox.add(session, Noted("later", "an event"), deliver_at=soon)
    seen: list[Change] = []

    async def is_read() -> bool:
        seen.extend(reader.catch_up())
        return len(keys(seen)) == 2 and await waiting(engine) == []

    async with service.running():
        await until(is_read, what="both were read, and are gone")
    assert keys(seen) == ["now", "later"]


async def test_a_synchronous_service_has_readers_too(
    database: Database, engine: AsyncEngine, make_sync_engine: MakeSyncEngine, reader: LogReader
) -> None:
    service = make_plain_service(
        make_sync_engine(database),
        peers={"kafka": outbox.LogReader(database.url.rpartition("/")[2])},
        routes={Noted: ["kafka"]},
        relay=QUICKLY,
    )

    def commit() -> None:
        with service.sessions.begin() as session:
            outbox.add(session, Noted("a", "an event"))

    async def is_read() -> bool:
        reader.catch_up()
        return await waiting(engine) == []

    async with service.running():
        await asyncio.to_thread(commit)
        await until(is_read, what="it is gone")


async def test_tables_under_other_names_are_read_and_trimmed(
    database: Database, engine: AsyncEngine, slot: str
) -> None:
    named = outbox.Tables(prefix="till_")
    async with engine.begin() as connection:
        await connection.run_sync(named.metadata.create_all)
    service = make_service(
        engine,
        peers={"kafka": outbox.LogReader(slot)},
        routes={Noted: ["kafka"]},
        relay=QUICKLY,
        tables=named,
    )
    publish(database, slot, "till_outbox")
    seen: list[Change] = []
    with log_reader(database, slot, slot=slot) as opened:

        async def is_read() -> bool:
            seen.extend(opened.catch_up())
            return {it.kind for it in seen} == {"insert", "delete"}

        async with service.running():
            async with service.sessions.begin() as session:
                outbox.add(session, Noted("a", "an event"))
            await until(is_read, what="it was read, and is gone")
    assert {it.table for it in seen} == {"public.till_outbox"}


async def test_a_reader_gets_no_commands(engine: AsyncEngine) -> None:
    service = make_service(engine, peers={"bank": outbox.LogReader("bank_slot")})
    with pytest.raises(outbox.Unrouted, match="go to bank, which takes events alone"):
        async with service.sessions.begin() as session:
            outbox.add(session, Book("a", "an entry"))


# --- What cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", ["", "Outbox", "a-b", "x" * 64])
def test_a_name_that_no_slot_can_have_is_refused(slot: str) -> None:
    with pytest.raises(outbox.InvalidService, match="no name of a replication slot"):
        outbox.LogReader(slot)


async def test_a_reader_with_a_transport_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(outbox.InvalidService, match=r"kafka reads the log .* and has a transport"):
        make_service(engine, peers={"kafka": outbox.LogReader("a")}, transports={"kafka": Press()})


@pytest.mark.parametrize("publication", ["", "x" * 64])
def test_a_name_that_no_publication_can_have_is_refused(publication: str) -> None:
    with pytest.raises(outbox.InvalidService, match="no name of a publication"):
        outbox.LogReader("a_slot", publication)


@pytest.mark.parametrize("keep", [-1.0, float("nan"), float("inf")])
def test_a_time_to_keep_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(outbox.InvalidService, match="is no time"):
        outbox.LogReader("a_slot", keep=keep)


@pytest.mark.parametrize("peers", ["kafka=log://a,kafka=log://b", "kafka=log://A"])
async def test_an_environment_that_cannot_be_read_is_refused(
    engine: AsyncEngine, peers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_PEERS", peers)
    with pytest.raises(outbox.InvalidService, match="SAGABOX_PEERS cannot be read"):
        make_service(engine, peers=None)


@pytest.mark.databases("sqlite")
async def test_sqlite_has_no_log_to_read(engine: AsyncEngine) -> None:
    with pytest.raises(outbox.InvalidService, match="only PostgreSQL"):
        make_service(engine, peers={"kafka": "log://a_slot"})
