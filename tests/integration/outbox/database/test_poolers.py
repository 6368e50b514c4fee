"""A real PgBouncer that hands its connections from transaction to transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

import outbox
from outbox.database import opening
from outbox.database.address.poolers import unprepared, warn_of_pooler
from outbox.database.engines import reading
from outbox.relay.settings import RelaySettings
from outbox.relay.settler import Settler
from outbox.transports import MemoryTransport
from tests.support.databases.databases import Database, Schema
from tests.support.databases.pgbouncer import pooled
from tests.support.outbox.inboxes import Noted, ledger_schema
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")

DRIVERS = ("asyncpg", "psycopg")
AT_ONCE = 8
NAMED = {"prepared_statement_name_func": lambda: f"__{uuid4()}__"}
"""What SQLAlchemy's manual has for PgBouncer."""


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def address(database: Database, port: int | None, driver: str) -> str:
    """The database's URL, by way of the pooler at that port."""
    url = make_url(database.url).set(drivername=f"postgresql+{driver}")
    url = url if port is None else url.set(port=port)
    return url.render_as_string(hide_password=False)


@pytest.fixture
async def port(database: Database, tmp_path: Path) -> AsyncIterator[int]:
    assert database.server is not None
    async with pooled(database.server, tmp_path / "pgbouncer") as found:
        yield found


async def in_turns(engine: AsyncEngine) -> None:
    """The same statements of several clients at once, each time in transactions of their own."""

    async def one(number: int) -> None:
        for turn in range(20):
            async with engine.connect() as connection:
                asked = text("SELECT CAST(:n AS int) + 1").bindparams(n=number + turn)
                assert await connection.scalar(asked) == number + turn + 1

    await asyncio.gather(*map(one, range(AT_ONCE)))


@pytest.mark.parametrize("driver", DRIVERS)
async def test_statements_of_several_processes_do_not_meet_each_other_in_a_pooler(
    database: Database, port: int, driver: str
) -> None:
    processes = [opening.open_database(address(database, port, driver), name="x") for _ in "ab"]
    try:
        engines = [it for each in processes for it in (each.engine, each.reading)]
        await asyncio.gather(*map(in_turns, engines))
    finally:
        for each in processes:
            await each.engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_each_transaction_has_the_bounds_and_leaves_none_to_other_clients(
    database: Database, port: int, driver: str
) -> None:
    url = address(database, port, driver)
    made = opening.open_database(url, name="x", pool_size=1, pool_overflow=0)
    stranger = create_async_engine(url, connect_args=unprepared(driver))
    asked = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
    try:
        for engine in (made.engine, made.reading):
            async with engine.connect() as connection:
                assert tuple((await connection.execute(asked)).one()) == ("15s", "5s")
            async with stranger.connect() as connection:
                assert tuple((await connection.execute(asked)).one()) == ("0", "0")
    finally:
        await made.engine.dispose()
        await stranger.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_nothing_is_prepared_that_stays_in_a_pooler(
    database: Database, port: int, driver: str
) -> None:
    made = opening.open_database(address(database, port, driver), name="x", pool_size=1)
    try:
        await in_turns(made.engine)
        await in_turns(made.reading)
        async with made.engine.connect() as connection:
            count = "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"
            assert await connection.scalar(text(count)) == 0
    finally:
        await made.engine.dispose()


def deleting(engine: AsyncEngine) -> AsyncEngine:
    """The engine with which a relay deletes what has arrived."""
    unused: Any = None
    return Settler(engine, unused, unused, "there", RelaySettings(), None)._deleting


@pytest.mark.parametrize("made", [reading, deleting])
async def test_single_statements_with_names_are_held_together(
    database: Database, port: int, made: Callable[[AsyncEngine], AsyncEngine]
) -> None:
    engine = create_async_engine(
        address(database, port, "asyncpg"), connect_args=unprepared("asyncpg") | NAMED
    )
    await in_turns(made(engine))
    await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_direct_connection_prepares_and_reads_without_a_transaction(
    database: Database, driver: str
) -> None:
    made = opening.open_database(
        address(database, None, driver), name="x", pool_size=1, pool_overflow=0
    )
    try:
        await in_turns(made.reading)
        await made.engine.dispose()  # the connections after the first are as it is
        await in_turns(made.reading)
        async with made.reading.connect() as connection:
            count = "SELECT count(*) FROM pg_prepared_statements"
            assert int(await connection.scalar(text(count)) or 0) > 0
            ids = [await connection.scalar(text("SELECT txid_current()")) for _ in "ab"]
            assert ids[0] != ids[1]
    finally:
        await made.engine.dispose()


@pytest.mark.parametrize(
    ("driver", "connect_args"),
    [
        ("asyncpg", "{'statement_cache_size': 0, 'prepared_statement_cache_size': 0}"),
        ("psycopg", "{'prepare_threshold': None}"),
    ],
)
async def test_an_engine_that_is_not_made_for_a_pooler_is_told_what_it_lacks(
    database: Database,
    port: int,
    driver: str,
    connect_args: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, direct = address(database, port, driver), address(database, None, driver)
    wanted = unprepared(driver)
    lacking: list[AsyncEngine | Engine] = [create_async_engine(url)]
    if driver == "psycopg":
        lacking.append(create_engine(url))
    made = [create_async_engine(url, connect_args=wanted), create_async_engine(direct)]
    for engine in made:
        await warn_of_pooler(engine, "orders")
        await engine.dispose()
    assert caplog.messages == []
    for each in lacking:
        await warn_of_pooler(each, "orders")
        await each.dispose() if isinstance(each, AsyncEngine) else each.dispose()
    assert len(caplog.messages) == len(lacking)
    for message in caplog.messages:
        assert "database of orders" in message
        assert "\n" not in message
        assert f"create_engine(..., connect_args={connect_args})" in message


async def test_a_service_that_starts_tells_of_the_pooler(
    database: Database, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(address(database, port, "asyncpg"), pool_size=1, max_overflow=0)
    service = outbox.Service("orders", engine, secrets="k:" + "c2VjcmV0" * 8)
    async with service.running():
        pass
    await engine.dispose()
    assert "a pooler is before the database of orders" in caplog.text


@pytest.mark.parametrize(
    ("driver", "more"),
    [
        ("asyncpg", {}),
        ("asyncpg", NAMED),
        ("psycopg", {}),
    ],
    ids=["asyncpg", "asyncpg with names", "psycopg"],
)
async def test_messages_of_an_engine_for_poolers_arrive_once_and_nothing_is_logged(
    database: Database,
    port: int,
    driver: str,
    more: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    engine = create_async_engine(
        address(database, port, driver), connect_args=unprepared(driver) | more, pool_size=10
    )
    sessions = async_sessionmaker(engine)
    clock, handled = outbox.SystemClock(), []
    handlers = outbox.Handlers("mail")

    @handlers.on(Noted)
    async def note(_session: Any, noted: Noted, _context: Any) -> None:
        handled.append(noted.entry)

    inbox = outbox.Inbox(handlers, sessions, clock=clock)
    outbox.install(sessions, source="orders", routes={Noted: ["mail"]})
    stop = asyncio.Event()
    ways = {"mail": MemoryTransport(inbox.receive)}
    relays = [outbox.Relay(engine, ways, owner=f"orders {it}", clock=clock) for it in range(2)]
    running = [asyncio.create_task(it.run(stop)) for it in relays]
    sent = [f"entry {number}" for number in range(60)]
    for number, entry in enumerate(sent):
        async with sessions.begin() as session:
            outbox.add(session, Noted(str(number % 7), entry))
    await until(lambda: len(handled) >= len(sent), deadline=40, what="all are handled")
    stop.set()
    await asyncio.gather(*running)
    await engine.dispose()
    assert sorted(handled) == sorted(sent)
    assert caplog.messages == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_pooler_in_session_mode_is_treated_as_one_in_transaction_mode(
    database: Database, tmp_path: Path, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert database.server is not None
    async with pooled(database.server, tmp_path / "by-session", "session") as port:
        made = opening.open_database(address(database, port, driver), name="x", pool_size=8)
        service = outbox.Service("orders", made.engine, secrets="k:" + "c2VjcmV0" * 8)
        try:
            await asyncio.gather(*map(in_turns, (made.engine, made.reading)))
            async with service.running():
                pass
        finally:
            await made.engine.dispose()
    assert caplog.messages == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_pooler_in_statement_mode_is_refused_with_the_way_out(
    database: Database, tmp_path: Path, driver: str
) -> None:
    assert database.server is not None
    async with pooled(database.server, tmp_path / "by-statement", "statement") as port:
        url = address(database, port, driver)
        made = opening.open_database(url, name="x").engine
        for engine in (made, create_async_engine(url)):
            service = outbox.Service("orders", engine, secrets="k:" + "c2VjcmV0" * 8)
            with pytest.raises(outbox.FeatureMissing) as refused:
                async with service.running():
                    pass
            assert "the database of orders lacks the feature 'transactions'" in str(refused.value)
            assert "pool_mode = transaction" in refused.value.next_step
            await engine.dispose()
