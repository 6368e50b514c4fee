"""`upgrade --wait` waits for a server that does not answer yet, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from migrations.databases import database_at, wait_for_server
from migrations.errors import MigrationError, Unreachable
from outbox.clock import SystemClock
from outbox.testing import FakeClock
from tests.support.databases.migrating import START, explained, migrate
from tests.support.databases.postgres import PostgresServer
from tests.support.processes.waiting import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def own_server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server that the test may stop and start."""
    server = PostgresServer()
    server.create_database("blog")
    yield server
    server.close()


async def test_a_server_that_starts_meanwhile_is_waited_for(own_server: PostgresServer) -> None:
    url = f"postgresql://postgres@127.0.0.1:{own_server.port}/blog"
    own_server.stop()
    told: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(
        wait_for_server(database_at(url), 100.0, clock=SystemClock(), tell=told.put_nowait)
    )
    # The signal that the first look was in vain: only now there is a server.
    sentence = await asyncio.wait_for(told.get(), 60)
    assert sentence.endswith("cannot be reached; waiting for it up to 100 s")
    await asyncio.to_thread(own_server.start)
    await waiting
    assert told.empty()
    upgraded = await asyncio.to_thread(
        migrate, "upgrade", "articles", "--database", url, "--wait", "60"
    )
    assert (upgraded.code, "articles_0005" in upgraded.out) == (0, True), upgraded


def test_a_server_that_never_answers_is_told_with_the_time() -> None:
    url = f"postgresql://me@127.0.0.1:{free_port()}/blog"
    happened, _, next_step = explained(
        migrate("upgrade", "articles", "--database", url, "--wait", "0.5")
    )
    assert happened.endswith("cannot be reached, also after 0.5 s")
    assert next_step.startswith("start the server")


async def test_a_refusal_is_not_waited_for(postgres_server: PostgresServer) -> None:
    missing = f"postgresql://postgres@127.0.0.1:{postgres_server.port}/not_there"
    told: list[str] = []
    with pytest.raises(MigrationError, match="does not exist") as caught:
        # The clock stands still: a wait would never end.
        await wait_for_server(
            database_at(missing), 1000.0, clock=FakeClock(START), tell=told.append
        )
    assert not isinstance(caught.value, Unreachable)
    assert told == []


async def test_a_sqlite_file_is_not_waited_for() -> None:
    database = database_at("sqlite:////no/where.sqlite")
    await wait_for_server(database, 1000.0, clock=FakeClock(START), tell=pytest.fail)
    assert not database.path or not database.path.exists()
