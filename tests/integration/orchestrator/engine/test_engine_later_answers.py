"""Answers that come later, skips that ask first, and effects that come after the end: through the
database, and on every node."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.commits.items import Begin, Tell
from orchestrator.engine.node import Node
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import Cancel, OperatorSignal, Replied, Skip, Terminate
from orchestrator.store import signal_rows
from orchestrator.store.records import Standing, standing_of
from orchestrator.store.sharding import shard_of
from outbox.ids import compose
from outbox.replies import PENDING, Outcome, Progress, Reply
from outbox.testing import FakeClock
from outbox.wire.reply_json import progress_json
from tests.support.orchestrator.engines import VOID, Scripted, running
from tests.support.orchestrator.nodes import make_node, make_ports
from tests.support.orchestrator.trips import BOOKING, NAMES, Trip
from tests.support.processes.waiting import until

RUN = compose(1_900_000_000_000, 1)
DONE = Reply(Outcome.DONE)
NOTHING = Reply(Outcome.NOTHING_TO_UNDO)
GONE = Reply(Outcome.UNKNOWN, reason="who knows")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def standing(engine: AsyncEngine, saga_id: str = RUN) -> Standing:
    async with engine.connect() as connection:
        found = await connection.scalar(
            select(tables.saga.c.document).where(tables.saga.c.id == saga_id)
        )
    assert found is not None
    return standing_of(found)


async def test_a_pending_command_is_asked_again_at_its_time_until_it_is_answered(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    hotels = participants["hotels"]
    participants["trains"].values["trains.reserve-seat.v1"] = {"number": "7"}
    async with running(engine, [BOOKING], participants) as node:
        progress = Progress(datetime(2030, 1, 1, tzinfo=UTC))
        hotels.replies["hotels.reserve-room.v1"] = Reply(
            Outcome.ONGOING, progress_json(progress), PENDING, "the owner", retry_after=0.5
        )
        id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
        await until(lambda: len(hotels.seen) >= 2, what="it is asked again")
        step = (await standing(engine, id)).steps["reserve room"]
        assert step.status is StepStatus.SENT
        assert step.awaited is not None
        assert step.awaited.pending is not None
        assert (step.awaited.pending.note, step.awaited.pending.progress) == ("the owner", progress)
        assert step.tries == 0
        del hotels.replies["hotels.reserve-room.v1"]
        await node.until_status(id, Status.COMPLETED)
    asked = [it for it in hotels.seen if it.type == "hotels.reserve-room.v1"]
    assert len({(it.id, bytes(it.data)) for it in asked}) == 1


@pytest.mark.parametrize("ran", [True, False])
async def test_a_skip_asks_the_participant_first_whether_the_command_ran(
    engine: AsyncEngine, participants: dict[str, Scripted], ran: bool
) -> None:
    payments = participants["payments"]
    participants["trains"].values["trains.reserve-seat.v1"] = {"number": "7"}
    payments.replies["payments.charge.v1"] = GONE
    async with running(engine, [BOOKING], participants) as node:
        id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
        await node.until_status(id, Status.STUCK)
        (charge,) = payments.seen
        told = {"state": "ran", "reply": {"outcome": "done"}} if ran else {"state": "absent"}
        payments.replies[VOID] = Reply(Outcome.DONE, value={charge.id: told})
        await node.engine.signal(id, Skip("charge", "ann", "by hand"))
        await node.until_status(id, Status.COMPLETED)
        assert await node.rows(tables.saga_signal) == []
    step = (await standing(engine, id)).steps["charge"]
    assert step.status is (StepStatus.DONE if ran else StepStatus.SKIPPED)
    (void,) = [it for it in payments.seen if it.type == VOID]
    assert (void.correlation, void.key, void.reply_to) == (id, charge.key, charge.reply_to)


# After the end


async def committed(node: Node, *signals: Replied | OperatorSignal) -> None:
    node.committer.put([Tell(RUN, signal) for signal in signals])
    while await node.committer.run_once():
        pass


async def ended(engine: AsyncEngine, clock: FakeClock) -> str:
    """A run that was cancelled and has ended. Returns the id of the action that it undid."""
    node = make_node(engine, [BOOKING], NAMES, clock=clock, owner="before")
    await node.shards.tend_once()
    node.committer.put([Begin(RUN, BOOKING, Trip("one"))])
    await committed(node, Cancel("ann", "not wanted"))
    step = (await standing(engine)).steps["reserve seat"]
    assert step.awaited is not None
    await committed(node, Replied(step.awaited.id, NOTHING))
    await node.shards.leave()
    return step.action_ids[0]


async def test_a_success_that_comes_long_after_the_end_is_listed_with_the_run_and_counted(
    engine: AsyncEngine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    seat = await ended(engine, clock)
    columns = tables.saga.c
    query = select(columns.status, columns.ended_at, columns.due_at)
    async with engine.connect() as connection:
        before = (await connection.execute(query)).one()
    assert before.status == "COMPENSATED"
    clock.advance(timedelta(days=60).total_seconds())
    node = make_node(engine, [BOOKING], NAMES, clock=clock, owner="after")
    await node.shards.tend_once()
    store = make_ports(engine, clock).signals
    async with engine.begin() as connection:
        kind, payload = signal_rows.dump(Replied(seat, DONE, "trains"))
        for _ in range(2):
            await store.add(connection, [(RUN, shard_of(RUN), kind, payload)])
    node.committer.look()
    with caplog.at_level(logging.INFO, "orchestrator.runs"):
        await committed(node)
    (stray,) = (await standing(engine)).stray_effects
    assert (stray.step, stray.command_id) == ("reserve seat", seat)
    assert node.committer.stats.stray_effects == 1
    async with engine.connect() as connection:
        assert (await connection.execute(query)).one() == before, "it ended when it ended"
        assert (await connection.execute(select(tables.saga_signal))).all() == []
    (line,) = [it for it in caplog.records if "stray-effect" in it.getMessage()]
    assert line.levelno == logging.ERROR


async def test_an_end_keeps_its_time_when_something_comes_later(
    engine: AsyncEngine, clock: FakeClock
) -> None:
    node = make_node(engine, [BOOKING], NAMES, clock=clock)
    await node.shards.tend_once()
    node.committer.put([Begin(RUN, BOOKING, Trip("one"))])
    await committed(node, Terminate("ann", "enough"))
    async with engine.connect() as connection:
        before = await connection.scalar(select(tables.saga.c.ended_at))
    clock.advance(60)
    (seat,) = (await standing(engine)).steps["reserve seat"].action_ids
    await committed(node, Replied(seat, DONE))
    async with engine.connect() as connection:
        assert await connection.scalar(select(tables.saga.c.ended_at)) == before
