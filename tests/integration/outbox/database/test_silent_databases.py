"""PostgreSQL is gone, and nothing says so: the connections to it are half open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from outbox.database import opening as opened
from outbox.database.address.broken import ConnectionBroken
from outbox.database.troubles import Trouble, trouble_in_handler, trouble_in_statement
from tests.support.databases.databases import Database
from tests.support.faults.network import Wire, wire
from tests.support.orchestrator.saga_writers import connect
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")


@pytest.fixture
async def way(database: Database) -> AsyncIterator[Wire]:
    async with wire(database.url) as made:
        yield made


@pytest.fixture
async def service(
    database: Database, way: Wire, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[opened.Database]:
    monkeypatch.setattr(opened, "_SILENCE", 2.0)  # what answers does so sooner
    url = make_url(database.url).set(port=way.port).render_as_string(hide_password=False)
    made = opened.open_database(url, name="test")
    yield made
    await made.engine.dispose()


async def test_a_statement_that_is_never_answered_ends_and_the_next_one_works(
    service: opened.Database, way: Wire
) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(opened.ConnectionSilent) as caught:
            async with service.sessions.begin() as session:
                await session.execute(text("SELECT 1"))
                way.lose()
                await session.execute(text("SELECT 2"))
        assert trouble_in_handler(caught.value) is Trouble.LOST
        assert trouble_in_statement(caught.value) is Trouble.LOST
        async with service.sessions.begin() as session:
            assert await session.scalar(text("SELECT 3")) == 3


async def test_a_commit_that_is_never_answered_ends_too_and_has_no_known_outcome(
    service: opened.Database, way: Wire
) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(opened.ConnectionSilent) as caught:
            async with service.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                way.lose()
                await connection.commit()
        assert trouble_in_statement(caught.value) is Trouble.LOST


async def test_connections_that_rest_are_not_tried_one_by_one(
    service: opened.Database, way: Wire
) -> None:
    """Where one has gone silent, its pool's others are taken for lost as well."""

    async def hold(connected: asyncio.Event, release: asyncio.Event) -> None:
        async with service.reading.connect() as connection:
            await connection.execute(text("SELECT 1"))
            connected.set()
            await release.wait()

    release = asyncio.Event()
    events = [asyncio.Event() for _ in range(5)]
    holding = [asyncio.create_task(hold(it, release)) for it in events]
    async with asyncio.timeout(20):
        await asyncio.gather(*(it.wait() for it in events))
        release.set()
        await asyncio.gather(*holding)
        way.lose()
        with pytest.raises(opened.ConnectionSilent):
            async with service.reading.connect() as connection:
                await connection.execute(text("SELECT 2"))
        before = way.connections
        async with service.reading.connect() as connection:
            assert await connection.scalar(text("SELECT 3")) == 3
        await until(lambda: way.connections == before + 1, what="one new connection")


async def test_a_client_that_hangs_between_preparing_and_running_a_statement_loses_its_locks(
    service: opened.Database, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL counts it as neither idle nor at a statement."""
    assert "transaction_timeout" in opened._BOUNDS
    monkeypatch.setitem(opened._BOUNDS, "transaction_timeout", "3s")
    async with service.engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(7)"))
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.prepare("SELECT 1 + $1::int")
        # It does nothing more from here on.

        def is_free() -> bool:
            with connect(database) as other:
                ((free,),) = other.execute("SELECT pg_try_advisory_lock(7)").fetchall()
                return bool(free)

        await until(is_free, deadline=20, what="the lock is free")
        await connection.invalidate()


@pytest.mark.databases("postgresql", "older-postgresql")
async def test_every_connection_has_the_bounds_that_its_server_knows(
    service: opened.Database,
) -> None:
    async with service.reading.connect() as connection:
        for name, value in opened._BOUNDS.items():
            asked = text("SELECT current_setting(:name, true)")
            found = await connection.scalar(asked, {"name": name})
            assert found == value or (found is None and name == "transaction_timeout")


class _Dying:
    """A driver's connection to a server that is being stopped: asyncpg then says, without a code,
    that it cannot switch to another state."""

    def cursor(self) -> Any:
        raise RuntimeError("cannot switch to state 15; another operation (2) is in progress")


def test_a_server_that_stops_while_a_connection_is_made_is_away_and_no_mistake_of_ours() -> None:
    dying: Any = _Dying()
    with pytest.raises(ConnectionBroken) as caught:
        opened._set_bounds(dying)
    assert trouble_in_handler(caught.value) is Trouble.AWAY
    assert trouble_in_statement(caught.value) is Trouble.AWAY
