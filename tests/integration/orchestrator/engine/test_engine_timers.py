"""Deadlines and repetitions are kept in the database, and outlive the node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.definition.steps import Step, compensatable, pivot
from orchestrator.machine.instance import Status
from outbox import tables as library
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.in_time import engine_in_time, in_time
from tests.support.orchestrator.engines import Scripted, orchestrator_tables, running
from tests.support.orchestrator.nodes import make_node
from tests.support.orchestrator.stepping import ENDED, Asking, go_on
from tests.support.orchestrator.trips import Charge, ReleaseRoom, ReserveRoom, Trip, trip
from tests.support.processes.waiting import until

OFTEN = RetryPolicy(first=0.05, factor=1, ceiling=0.05, jitter=0, attempts=1000)
ROOM: Step[Trip] = compensatable(
    "reserve room",
    lambda it: ReserveRoom(it.trip),
    compensation=lambda it: ReleaseRoom(it.trip),
    deadline=timedelta(seconds=3),
    retry=OFTEN,
)
CHARGE: Step[Trip] = pivot("charge", lambda it: Charge(it.trip), retry=OFTEN)
HASTY = trip(ROOM, CHARGE)
PATIENT = trip(replace(ROOM, deadline=timedelta(minutes=5)), CHARGE)
ONGOING = Reply(Outcome.ONGOING)


@pytest.fixture
def database_schema() -> Schema:
    return in_time(orchestrator_tables)


@pytest.fixture
def participants() -> dict[str, Scripted]:
    return {name: Scripted() for name in ("hotels", "payments")}


async def hasty_trip(database: Database, participants: dict[str, Scripted]) -> str | None:
    """How a trip stands after four seconds, in each of which its room was asked for in vain."""
    clock, saga_id = FakeClock(), compose(1_893_456_000_000, 1)
    participants["hotels"].replies["hotels.reserve-room.v1"] = ONGOING
    async with engine_in_time(database, clock) as engine:
        node = make_node(engine, [HASTY], [*participants], clock=clock, transports=participants)
        asking = Asking(engine, clock)
        await go_on(node)
        await asking.start(saga_id, {"trip": "one"}, by="payments")
        await go_on(node)
        for _ in range(4):
            clock.advance(1)
            await go_on(node)
        return str((await asking.run(saga_id)).status)


async def test_a_step_without_an_answer_by_its_deadline_is_undone(
    database: Database, participants: dict[str, Scripted]
) -> None:
    assert await hasty_trip(database, participants) == Status.COMPENSATED
    types = participants["hotels"].types()
    assert types == [*["hotels.reserve-room.v1"] * 3, "hotels.release-room.v1"]
    assert len({it.id for it in participants["hotels"].seen}) == 2
    assert [it for it in participants["payments"].types() if it != ENDED] == []


async def test_a_command_says_at_each_sending_how_much_time_is_left(
    database: Database, participants: dict[str, Scripted]
) -> None:
    await hasty_trip(database, participants)
    *sent, undo = participants["hotels"].seen
    assert [it.expires_in for it in sent] == [3000, 2000, 1000]
    assert undo.expires_in is None, "an undo never expires"


async def test_what_is_ongoing_is_asked_again_until_it_is_done(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    participants["hotels"].replies["hotels.reserve-room.v1"] = ONGOING
    async with running(engine, [PATIENT], participants) as node:
        started = await node.engine.start(PATIENT, Trip("one"))
        await until(lambda: len(participants["hotels"].seen) >= 3, what="it is asked again")
        participants["hotels"].replies.clear()
        await node.until_status(started.instance_id, Status.COMPLETED)
        (row,) = await node.rows(tables.saga)
        assert row.due_at is None


async def test_timers_outlive_the_node_that_set_them(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    participants["hotels"].replies["hotels.reserve-room.v1"] = ONGOING
    async with running(engine, [HASTY], participants) as node:
        started = await node.engine.start(HASTY, Trip("one"))
        await until(lambda: participants["hotels"].seen, what="the first sending")
    async with running(engine, [HASTY], participants) as node:
        await node.until_status(started.instance_id, Status.COMPENSATED)


async def test_p5_a_pivot_without_an_answer_is_asked_again_for_ever(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    """Once it may have happened, the run only goes forward."""
    hasty = trip(ROOM, replace(CHARGE, deadline=timedelta(seconds=0.2)))
    participants["payments"].is_away = True
    async with running(engine, [hasty], participants) as node:
        started = await node.engine.start(hasty, Trip("one"))

        async def is_overdue() -> bool:
            lines = await node.rows(tables.saga_history)
            return any(line.happening == "overdue" for line in lines)

        await until(is_overdue, what="its deadline passes")
        assert await node.status(started.instance_id) == Status.RUNNING
        # Its row is still there, so that no second one was added.
        assert len(await node.rows(library.outbox)) == 1
        participants["payments"].is_away = False
        await node.until_status(started.instance_id, Status.COMPLETED)
    assert len({it.id for it in participants["payments"].seen}) == 1
