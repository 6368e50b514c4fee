"""Several workers of one application on one SQLite file: one is the node, and the others leave it
what they are asked, until it ends and one of them takes over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from orchestrator.errors import ActiveAlready, IllegalSignal, KeyReused
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.embedded import REFUSED, TRANSFER, Bank, Transfer, bank
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def other(make_engine: MakeEngine, database: Database) -> Bank:
    """The same application in another worker."""
    return bank(make_engine(database))


async def test_one_of_two_workers_is_the_node(one: Bank, other: Bank) -> None:
    async with one.running(), other.running():
        run = await other.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        await run.wait(20)
        assert one.engine.is_running
        assert not other.engine.is_running


async def test_what_a_worker_that_is_not_the_node_is_asked_to_start_runs_to_its_end(
    one: Bank, other: Bank
) -> None:
    async with one.running(), other.running():
        run = await other.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await run.wait(20)).status == "COMPLETED"
        asked = await other.ask("bob", REFUSED)
        await until(lambda: asked in {**one.ends.told, **other.ends.told}, what="its end is told")
        state = await other.orchestrator.client.run(asked).get()
    assert state.status == "COMPENSATED"
    assert await one.entries() == ["one", "one, noted"]


async def test_one_idempotency_key_begins_one_run_whichever_worker_is_asked(
    one: Bank, other: Bank
) -> None:
    async with one.running(), other.running():
        first = await other.orchestrator.client.start(TRANSFER, Transfer("ada", "one"), key="k")
        again = await other.orchestrator.client.start(TRANSFER, Transfer("ada", "one"), key="k")
        there = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"), key="k")
        assert first.id == again.id == there.id
        with pytest.raises(KeyReused):
            await other.orchestrator.client.start(TRANSFER, Transfer("ada", "two"), key="k")


async def test_a_worker_that_is_not_the_node_says_what_the_node_refuses(
    one: Bank, other: Bank
) -> None:
    one.ends.holds = True
    async with one.running(), other.running():
        client = other.orchestrator.client
        run = await client.start(TRANSFER, Transfer("ada", "one"))
        with pytest.raises(ActiveAlready) as refusal:
            await client.start(TRANSFER, Transfer("ada", "two"))
        assert refusal.value.instance_id == run.id
        one.ends.holds = False
        await run.wait(20)
        with pytest.raises(IllegalSignal):
            await run.cancel("it is too late")


async def test_a_worker_takes_over_when_the_node_ends(one: Bank, other: Bank) -> None:
    async with AsyncExitStack() as stack:
        node = AsyncExitStack()
        await node.enter_async_context(one.running())
        await stack.enter_async_context(other.running())
        first = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        await node.aclose()
        assert (await other.orchestrator.client.run(first.id).wait(20)).status == "COMPLETED"
        run = await other.orchestrator.client.start(TRANSFER, Transfer("bob", "two"))
        assert (await run.wait(20)).status == "COMPLETED"


async def test_a_worker_that_waits_for_its_turn_ends_at_once_when_it_is_told_to(
    one: Bank, other: Bank
) -> None:
    async with one.running(), asyncio.timeout(30), other.running():
        pass
