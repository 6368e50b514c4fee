"""A configured SQLite engine keeps its word: its settings, its writers and readers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import (
    OperationalError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from outbox import sqlite
from outbox.errors import OutboxError, UnconfiguredSQLite
from outbox.sqlite import READ_ONLY
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import business, insert, names, things

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def database_schema() -> Schema:
    return business


@pytest.fixture
def engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


# --- Settings ----------------------------------------------------------------------------------

SETTINGS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": 1500,
    "foreign_keys": 1,
    "query_only": 0,
}


def settings(connection: Connection) -> dict[str, Any]:
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in SETTINGS}


async def test_the_settings_hold_on_every_connection(database: Database) -> None:
    engine = create_engine(database.sync_url)
    sqlite.configure(engine, busy_timeout=1.5)
    sqlite.configure(engine)
    with engine.connect() as one, engine.connect().execution_options(**READ_ONLY) as other:
        assert settings(one) == SETTINGS
        assert settings(other) == SETTINGS | {"query_only": 1}
    engine.dispose()
    asynchronous = create_async_engine(database.url)
    sqlite.configure(asynchronous, busy_timeout=1.5)
    async with asynchronous.connect() as connection:
        assert await connection.run_sync(settings) == SETTINGS
    await asynchronous.dispose()


def test_an_engine_is_configured_or_not(database: Database) -> None:
    engine = create_engine(database.sync_url)
    assert not sqlite.is_configured(engine)
    with pytest.raises(UnconfiguredSQLite, match=r"call outbox\.sqlite\.configure\(engine\)"):
        sqlite.require(engine)
    sqlite.configure(engine)
    for each in (engine, engine.execution_options(anything=1)):
        assert sqlite.is_configured(each)
        sqlite.require(each)


def test_other_databases_need_no_configuration() -> None:
    engine = create_engine("postgresql+psycopg://user@127.0.0.1:1/nothing")
    sqlite.configure(engine)
    sqlite.require(engine)
    assert not sqlite.is_configured(engine)


def test_an_engine_that_cannot_be_made_safe_is_refused(database: Database) -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(OutboxError, match=r"is in memory.*use a file"):
            sqlite.configure(create_engine(url))
    derived = create_engine(database.sync_url).execution_options(anything=1)
    with pytest.raises(OutboxError, match="configure the original engine"):
        sqlite.configure(derived)
    careless = create_engine(database.sync_url, skip_autocommit_rollback=True)
    with pytest.raises(OutboxError, match="nothing would ever be rolled back"):
        sqlite.configure(careless)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"creator": lambda: sqlite3.connect("")}, "makes connections in a way of its own"),
        ({"connect_args": {"factory": sqlite3.Connection}}, "a connection factory of its own"),
    ],
)
def test_an_engine_that_connects_in_its_own_way_is_refused(
    database: Database, options: dict[str, Any], words: str
) -> None:
    engine = create_engine(database.sync_url, **options)
    sqlite.configure(engine)
    with pytest.raises(OutboxError, match=words):
        engine.connect()
    engine.dispose()


def test_a_shared_memory_database_is_refused_when_it_is_opened() -> None:
    url = "sqlite:///file:shared?mode=memory&cache=shared&uri=true"
    engine = create_engine(url, poolclass=NullPool)
    sqlite.configure(engine)
    with pytest.raises(OutboxError, match="is in memory"):
        engine.connect()


def test_a_connection_from_before_the_configuration_is_refused(database: Database) -> None:
    engine = create_engine(database.sync_url)
    engine.connect().close()
    sqlite.configure(engine)
    with engine.connect() as connection, pytest.raises(UnconfiguredSQLite):
        connection.begin()
    engine.dispose()


def test_a_new_database_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Turning the log on needs the database for oneself, and SQLite gives up at once where two
    connections are in each other's way."""
    for number in range(5):
        start = threading.Barrier(6)
        failures: list[Exception] = []

        def open_it(url: str, start: threading.Barrier, failures: list[Exception]) -> None:
            engine = create_engine(url)
            sqlite.configure(engine)
            start.wait(10)
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
            except Exception as error:
                failures.append(error)
            engine.dispose()

        arguments = (f"sqlite:///{tmp_path}/{number}.db", start, failures)
        threads = [threading.Thread(target=open_it, args=arguments) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []


class Cursor:
    """Answers to `PRAGMA journal_mode = WAL`: errors, or the mode that it is."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = iter(answers)

    def execute(self, _: str) -> None:
        self.answer = next(self.answers)
        if isinstance(self.answer, Exception):
            raise self.answer

    def fetchone(self) -> tuple[object]:
        return (self.answer,)


def test_turning_the_log_on_is_tried_again_but_not_for_ever() -> None:
    busy = sqlite3.OperationalError("database is locked")
    sqlite._keep_log("url", Cursor(busy, busy, "wal"))
    with pytest.raises(sqlite3.OperationalError):
        sqlite._keep_log("url", Cursor(*[busy] * 1000))


def test_a_database_that_cannot_keep_a_log_is_refused() -> None:
    with pytest.raises(OutboxError, match=r"its journal mode stays 'delete'.*local, writable disk"):
        sqlite._keep_log("url", Cursor("delete"))


# --- Writers and readers -----------------------------------------------------------------------


async def test_concurrent_read_modify_writes_lose_nothing(async_engine: AsyncEngine) -> None:
    async with async_engine.begin() as connection:
        await connection.run_sync(insert, "counter", "0")

    async def increment() -> None:
        async with async_engine.begin() as connection:
            value = await connection.scalar(text("SELECT text FROM thing"))
            await connection.execute(text("UPDATE thing SET text = :it"), {"it": int(value) + 1})

    await asyncio.gather(*(increment() for _ in range(50)))
    async with async_engine.connect() as connection:
        assert await connection.scalar(text("SELECT text FROM thing")) == "50"


async def test_no_writer_starves(async_engine: AsyncEngine) -> None:
    """SQLite alone let one of 32 wait for three seconds while others wrote 200 times."""
    written: Counter[int] = Counter({writer: 0 for writer in range(32)})
    spreads: list[int] = []
    all_connected = asyncio.Barrier(len(written))

    async def write(writer: int) -> None:
        async with async_engine.connect():
            await all_connected.wait()
        for number in range(10):
            async with async_engine.begin() as connection:
                await connection.run_sync(insert, f"{writer} {number}")
            written[writer] += 1
            spreads.append(max(written.values()) - min(written.values()))

    await asyncio.gather(*(write(writer) for writer in written))
    assert max(spreads) <= 4


def test_a_reader_does_not_wait_for_a_writer(engine: Engine) -> None:
    with engine.begin() as writer:
        insert(writer, "a")
        assert names(engine) == []
    assert names(engine) == ["a"]


def test_a_writer_does_not_wait_for_a_reader_who_keeps_what_it_saw(engine: Engine) -> None:
    with Session(engine) as reader:
        reader.connection(execution_options=READ_ONLY)
        assert things(reader) == []
        with engine.begin() as writer:
            insert(writer, "a")
        assert things(reader) == []
    assert names(engine) == ["a"]


def test_a_reader_cannot_write(make_sync_engine: MakeSyncEngine, database: Database) -> None:
    engine = make_sync_engine(database, pool_size=1, max_overflow=0)
    with engine.connect().execution_options(**READ_ONLY) as reader:
        with pytest.raises(OperationalError, match="readonly"):
            insert(reader, "a")
        reader.rollback()
    with engine.begin() as writer:  # on the same connection
        insert(writer, "b")
    assert names(engine) == ["b"]


def test_writers_of_threads_and_of_event_loops_share_one_queue(
    engine: Engine, async_engine: AsyncEngine
) -> None:
    order: list[str] = []
    held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.begin() as connection:
            held.set()
            may_end.wait(10)
            insert(connection, "thread")
            order.append("thread")

    async def follow() -> None:
        thread = threading.Thread(target=hold)
        thread.start()
        await asyncio.to_thread(held.wait, 10)

        async def write() -> None:
            async with async_engine.begin() as connection:
                await connection.run_sync(insert, "loop")
                order.append("loop")

        task = asyncio.create_task(write())
        await asyncio.sleep(0)
        assert order == []
        may_end.set()
        await task
        await asyncio.to_thread(thread.join, 10)
        await async_engine.dispose()

    asyncio.run(follow())
    assert order == ["thread", "loop"]
