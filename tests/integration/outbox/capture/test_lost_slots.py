"""A reader that is gone for long: PostgreSQL gives up its slot instead of the disk, and what was
not read is still in the outbox."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.relay.settings import RelaySettings
from tests.support.databases.databases import Database, PostgresTemplates, Schema
from tests.support.databases.logical_log import LogReader, log_reader, publish
from tests.support.databases.postgres import PostgresServer
from tests.support.outbox.capturing import waiting
from tests.support.outbox.inboxes import Noted, ledger_schema
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")

SLOT = "outbox_slot"


@pytest.fixture(scope="module")
def postgres_templates() -> Iterator[PostgresTemplates]:
    """A server of its own, whose slots may keep next to nothing."""
    server = PostgresServer(settings={"max_slot_wal_keep_size": "1MB"})
    yield PostgresTemplates(server)
    server.close()


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def fill_the_log(database: Database) -> None:
    """Write more than a slot may keep; a checkpoint then gives up the slots that need it."""
    assert database.server is not None
    with database.server.connect(database.url.rpartition("/")[2]) as connection:
        for _ in range(4):
            connection.execute("SELECT pg_logical_emit_message(true, 'full', repeat('x', 100000))")
            connection.execute("SELECT pg_switch_wal()")
        connection.execute("CHECKPOINT")
        found = connection.execute("SELECT wal_status FROM pg_replication_slots").fetchone()
    assert found == ("lost",)


async def test_what_a_lost_slot_did_not_show_is_kept_and_goes_when_a_new_one_has_passed_it(
    database: Database, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service(
        engine,
        peers={"kafka": outbox.LogReader(SLOT)},
        routes={Noted: ["kafka"]},
        relay=RelaySettings(poll=0.02),
    )

    async def add(key: str) -> None:
        async with service.sessions.begin() as session:
            outbox.add(session, Noted(key, "an event"))

    async def is_read(reader: LogReader, *stays: str) -> bool:
        reader.catch_up()
        return await waiting(engine) == list(stays)

    publish(database, SLOT, "outbox")
    async with service.running():
        with log_reader(database, SLOT, slot=SLOT) as reader:
            await add("read")
            await until(lambda: is_read(reader), what="the first one was read, and is gone")
            await add("missed")
            fill_the_log(database)
            with pytest.raises(psycopg.OperationalError):
                reader.take()
            await until(lambda: f"slot {SLOT} needs is gone" in caplog.text, what="it is told")
            await add("later")
            assert await waiting(engine) == ["missed", "later"]
        with log_reader(database, SLOT, slot=SLOT) as anew:
            assert await waiting(engine) == ["missed", "later"], "for its first snapshot"
            await until(lambda: is_read(anew), what="they are gone")
