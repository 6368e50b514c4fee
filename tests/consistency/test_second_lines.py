"""Mechanisms that others make up for: a history in which one of them is missing comes to a good end
all the same, only later. So each has a test of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.definition.registry import Registry
from orchestrator.machine import machine
from orchestrator.store.commit_parts import Writes
from orchestrator.store.commit_statements import CommitStatements, StaleRuns
from orchestrator.store.records import Record
from orchestrator.tables import saga_tables
from orchestrator.testing import sample_input
from orchestrator.testing.simulating.shapes import PARTICIPANTS, made_up
from outbox.crashpoints import Crash
from outbox.retry import RetryPolicy
from outbox.tables import DEFAULT_TABLES, outbox_held
from outbox.testing import FakeClock, crash_at
from tests.support.databases.databases import Schema
from tests.support.orchestrator.engines import orchestrator_tables
from tests.support.outbox.relays import FAILED, Destination, commit, counts, make_relay, message

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUN_ID = "0190a000-0000-7000-8000-000000000001"

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_tables


async def test_a_run_that_another_node_wrote_is_not_written_over(engine: AsyncEngine) -> None:
    saga = made_up(4)
    registry = Registry([saga], dict.fromkeys(PARTICIPANTS, ""))
    statements = CommitStatements(
        registry, saga_tables(DEFAULT_TABLES), postgres=False, now=lambda: NOW
    )
    begun = machine.start(saga, RUN_ID, sample_input(saga), NOW)
    new = Record(begun.instance).after(begun, NOW)
    record = replace(new, revision=1)
    async with engine.begin() as connection:
        assert set(await statements.insert(connection, [new], NOW)) == {RUN_ID}
        await statements.write(connection, Writes(records=[record]), NOW)
        with pytest.raises(StaleRuns):
            await statements.write(connection, Writes(records=[record]), NOW)


async def test_an_attempt_that_kills_the_relay_was_counted_before_it_was_made(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    await commit(engine, message("k"))
    destination = Destination(answer=lambda _: FAILED)
    retry = RetryPolicy(first=30.0, factor=1.0, ceiling=30.0, jitter=0.0, attempts=9)
    await make_relay(engine, destination, clock=clock, retry=retry).run_once()
    for life in range(3):
        clock.advance(60.0)
        relay = make_relay(engine, destination, clock=clock, retry=retry, owner=f"life-{life}")
        with crash_at("relay: after fetch, before deliver"), pytest.raises(Crash):
            await relay.run_once()
    async with engine.connect() as connection:
        attempts = await connection.scalar(select(outbox_held.c.attempts))
    assert (attempts, len(destination.ids)) == (4, 1)


async def test_the_key_of_a_buried_message_rests_no_longer(engine: AsyncEngine) -> None:
    await commit(engine, message("k"))
    clock = FakeClock()
    retry = RetryPolicy(first=1.0, factor=1.0, ceiling=1.0, jitter=0.0, attempts=2)
    destination = Destination(answer=lambda _: FAILED)
    relay = make_relay(engine, destination, clock=clock, retry=retry)
    for _ in range(2):
        await relay.run_once()
        clock.advance(2.0)
    found = await counts(engine)
    assert (found["outbox_dead"], found["outbox_held"]) == (1, 0)
