"""Processes of one service on PostgreSQL wake each other after their commits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination import notifications, wake_ups
from outbox.coordination.bell import Bell
from outbox.tables import Tables
from tests.support.databases.databases import Database
from tests.support.databases.pgbouncer import pooled
from tests.support.faults.network import wire
from tests.support.fixtures import MakeEngine
from tests.support.outbox.wake_ups import by, ear, end_listeners, listeners, waking
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")


@pytest.fixture
def database_schema() -> str:
    return "empty"


@pytest.fixture(params=("asyncpg", "psycopg"))
async def pair(
    request: pytest.FixtureRequest, database: Database, make_engine: MakeEngine
) -> AsyncIterator[tuple[Bell, Bell]]:
    """The bells of two processes that share no engine."""
    bells = Bell(), Bell()
    first, second = (make_engine(by(request.param, database), pool_size=1) for _ in bells)
    async with waking(first, bells[0]), waking(second, bells[1]):
        yield bells


async def rings_after(bell: Bell, before: int) -> None:
    """Wait until the bell has rung more often."""
    await until(lambda: bell.rings > before, what="the bell rings")


async def test_a_ring_in_one_process_rings_the_bell_of_the_other_and_does_not_come_back(
    pair: tuple[Bell, Bell],
) -> None:
    first, second = pair
    for here, there in ((first, second), (second, first), (first, second)):
        rings, heard = here.rings, there.rings
        here.ring()
        await rings_after(there, heard)
        assert (here.rings, there.rings) == (rings + 1, heard + 1)


async def test_a_connection_that_the_server_ended_comes_back_and_wakes_again(
    pair: tuple[Bell, Bell], engine: AsyncEngine
) -> None:
    old = set(await listeners(engine))
    assert len(old) == 2
    before = [it.rings for it in pair]
    await end_listeners(engine)

    async def back() -> bool:
        # The server shows it sooner than the process looks, after its loss and when it is back.
        if any(it.rings < rings + 2 for it, rings in zip(pair, before, strict=True)):
            return False
        now = set(await listeners(engine))
        return len(now) == 2 and not now & old

    await until(back, what="both listen again")
    await test_a_ring_in_one_process_rings_the_bell_of_the_other_and_does_not_come_back(pair)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_connection_that_has_fallen_silent_is_made_again(
    database: Database,
    make_engine: MakeEngine,
    driver: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wake_ups, "_CHECK", 0.1)
    monkeypatch.setattr(notifications, "_PATIENCE", 0.5)
    there = make_url(by(driver, database).url)
    async with wire(f"http://{there.host}:{there.port}") as way:
        address = there.set(host="127.0.0.1", port=way.port).render_as_string(False)
        engine = make_engine(Database(database.kind, address, address, database.server))
        bell, other = Bell(), Bell()
        async with waking(engine, bell), waking(make_engine(database), other):
            rings = bell.rings
            way.lose()
            await rings_after(bell, rings)  # it listens again
            rings = bell.rings
            other.ring()
            await rings_after(bell, rings)
        await engine.dispose()
    assert any(it.endswith("PostgreSQL has not answered for 0.5 s") for it in caplog.messages)


@asynccontextmanager
async def falling_silent(host: str, port: int, after: int) -> AsyncIterator[int]:
    """A way there: of the first connection only so many parts of what the server says come."""
    first = asyncio.Event()
    ends: list[asyncio.StreamWriter] = []
    meetings: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        with suppress(OSError):
            while told := await reader.read(65536):
                most -= 1
                if most != -1:
                    writer.write(told)
                else:
                    await asyncio.Event().wait()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        meetings.add(task)
        most = -2 if first.is_set() else after
        first.set()
        back, there = await asyncio.open_connection(host, port)
        ends.extend((writer, there))
        answers = asyncio.create_task(pump(back, writer, most))
        await pump(reader, there, -2)
        answers.cancel()
        there.close()
        writer.close()

    listening = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for end in ends:
            end.transport.abort()
        await asyncio.gather(*meetings, return_exceptions=True)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("after", [1, 3, 5])
async def test_a_connection_that_falls_silent_while_it_begins_is_made_again(
    database: Database,
    make_engine: MakeEngine,
    driver: str,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "_BEGINS_WITHIN", 1.0)
    there = make_url(by(driver, database).url)
    assert there.host is not None
    async with falling_silent(there.host, there.port or 5432, after) as port:
        address = there.set(host="127.0.0.1", port=port).render_as_string(False)
        engine = make_engine(Database(database.kind, address, address, database.server))
        bell, other = Bell(), Bell()
        async with waking(engine, bell), waking(make_engine(database), other):
            rings = bell.rings
            other.ring()
            await rings_after(bell, rings)
        await engine.dispose()


async def test_what_was_committed_while_a_process_did_not_listen_is_told_or_looked_for(
    pair: tuple[Bell, Bell], engine: AsyncEngine
) -> None:
    first, second = pair
    rings = second.rings
    await end_listeners(engine)
    first.ring()
    await until(lambda: second.rings >= rings + 2, what="it looks at the loss, and when it is back")


async def test_rings_that_come_close_together_share_a_notification(
    pair: tuple[Bell, Bell], engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_ups, "_BETWEEN", 0.1)
    first, second = pair
    async with ear(engine) as heard:
        before, began, rings = second.rings, monotonic(), 0
        while rings < 1000 or second.rings < before + 5:
            first.ring()
            rings += 1
            await asyncio.sleep(0)  # lets the notifier work in between
        assert len(heard.pids) <= (monotonic() - began) / wake_ups._BETWEEN + 2
        assert len(heard.pids) < rings / 10


async def test_a_process_that_has_every_lease_notifies_no_other(
    engine: AsyncEngine, database: Database, make_engine: MakeEngine
) -> None:
    alone = True
    bell, other = Bell(), Bell()
    async with (
        ear(engine) as heard,
        waking(make_engine(database), bell, is_alone=lambda: alone),
        waking(make_engine(database), other),
    ):
        other.ring()
        await until(lambda: heard.pids, what="a process without leases notifies")
        bell.ring()
        rings = bell.rings
        other.ring()
        await rings_after(bell, rings)
        assert len(set(heard.pids)) == 1, "of the other alone"
        alone = False
        bell.ring()
        await until(lambda: len(set(heard.pids)) == 2, what="the first one notifies, too")


@pytest.mark.parametrize("tables", [Tables(prefix="other_"), Tables(schema="other")])
async def test_another_installation_in_the_same_database_is_not_woken(
    pair: tuple[Bell, Bell], database: Database, make_engine: MakeEngine, tables: Tables
) -> None:
    first, second = pair
    strange, familiar = Bell(), Bell()
    async with (
        waking(make_engine(database), strange, tables=tables),
        waking(make_engine(database), familiar, tables=tables),
    ):
        rings, before = strange.rings, second.rings
        first.ring()
        await rings_after(second, before)
        assert strange.rings == rings
        heard, known = second.rings, strange.rings
        familiar.ring()
        await rings_after(strange, known)
        assert second.rings == heard


async def test_it_takes_no_connection_from_the_pool(
    database: Database, make_engine: MakeEngine
) -> None:
    small = make_engine(database, pool_size=1, max_overflow=0, pool_timeout=5)
    async with waking(small, Bell()):
        assert len(await listeners(small)) == 1


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_its_end_leaves_no_task_and_no_connection(
    database: Database, make_engine: MakeEngine, engine: AsyncEngine, driver: str
) -> None:
    tasks = asyncio.all_tasks()
    async with waking(make_engine(by(driver, database)), Bell()):
        assert len(await listeners(engine)) == 1
    assert asyncio.all_tasks() == tasks

    async def gone() -> bool:
        return not await listeners(engine)

    await until(gone, what="the server has ended the connection")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_through_a_pooler_it_is_left_to_looking_and_told_once(
    database: Database,
    make_engine: MakeEngine,
    tmp_path: Path,
    driver: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert database.server is not None
    caplog.set_level(logging.INFO, "outbox.relay")
    tasks = asyncio.all_tasks()
    async with pooled(database.server, tmp_path / "pgbouncer") as port:
        url = make_url(by(driver, database).url).set(port=port)
        address = url.render_as_string(hide_password=False)
        engine = make_engine(Database(database.kind, address, address, database.server))
        async with wake_ups.WakeUps(engine, Bell(), Tables(), is_alone=lambda: False).running():
            await until(lambda: caplog.messages, what="it is told")
            await until(lambda: asyncio.all_tasks() == tasks, what="it has ended")
        await engine.dispose()
    (told,) = caplog.messages
    assert told.startswith("a pooler is before the database")
