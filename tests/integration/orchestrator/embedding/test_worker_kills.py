"""Workers as processes of a server, one of which is killed: SIGKILL, in the midst of its runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, select

from orchestrator.embedding.attach import TABLES
from orchestrator.store.sharding import LEASED_AS
from tests.support.databases.databases import Database
from tests.support.outbox.banks import Running, entries, running
from tests.support.processes import zygote
from tests.support.processes.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.databases("sqlite"), pytest.mark.timeout(180)]
UVICORN = (
    *(sys.executable, "-m", "uvicorn"),
    "--port",
    "PORT",
    "tests.support.orchestrator.embedded_app:app",
)
MANY = 20


@pytest.fixture
async def workers(database: Database, tmp_path: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two, of which the first was there first, and so is the node."""
    more = {"BANK_DATABASE_URL": database.url, "SAGABOX_LEASE": "3"}
    async with AsyncExitStack() as stack:
        found = []
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            made = running(UVICORN, folder, peers={}, environment=more, begin=zygote.start)
            found.append(await stack.enter_async_context(made))
            await found[-1].start()
        yield found[0], found[1]


async def test_runs_of_a_node_that_is_killed_end_in_another_worker(
    workers: tuple[Running, Running], database: Database
) -> None:
    node, other = workers
    async with httpx.AsyncClient(timeout=60) as http:
        for number in range(MANY):
            at = (node, other)[number % 2]
            answer = await http.post(f"{at.url}/asked/a{number}", params={"entry": f"e{number}"})
            assert answer.status_code == 200
        await node.children[0].kill()
        expected = {f"e{it}{end}" for it in range(MANY) for end in ("", ", noted")}
        engine = create_engine(database.sync_url)

        async def all_are_there() -> bool:
            return expected <= set(entries(engine))

        await until(all_are_there, deadline=60, what="all transfers have ended")
        answer = await http.post(f"{other.url}/transfers/last", params={"entry": "last"})
        assert answer.json()["status"] == "COMPLETED"
    found = entries(engine)
    engine.dispose()
    assert sorted(found) == sorted(set(found)), "something took effect twice"


async def test_both_workers_are_asked_at_once_and_one_is_the_node(
    workers: tuple[Running, Running], database: Database
) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        answers = await asyncio.gather(
            *(
                http.post(f"{at.url}/transfers/{at.url[-1]}{number}", params={"entry": "x"})
                for at in workers
                for number in range(5)
            )
        )
    assert [it.json()["status"] for it in answers] == ["COMPLETED"] * 10
    nodes = TABLES.outbox_relay
    engine = create_engine(database.sync_url)
    with engine.connect() as connection:
        of_shards = select(nodes.c.owner).where(nodes.c.destination == LEASED_AS)
        (owner,) = connection.scalars(of_shards)
    engine.dispose()
    assert f":{workers[0].children[0].pid}:" in owner
