"""The news of a step that is STUCK: an event for the services that want to know, and a call of the
process's own code, both of what was committed."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.commits.items import Begin
from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Retry, Skip
from outbox import tables as library
from outbox.contract import SagaStuck
from outbox.crashpoints import Crash
from outbox.ids import compose
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock, crash_at
from outbox.wire.codec import decode
from tests.support.orchestrator.engines import QUICK, Scripted, running
from tests.support.orchestrator.nodes import make_node
from tests.support.orchestrator.trips import BOOKING, NAMES, TICKET, UNMAKEABLE_ROOM, Trip, trip
from tests.support.processes.waiting import until

STUCK = "orchestrator.saga-stuck.v1"
SETTINGS = EngineSettings(relay=QUICK, stuck_to=("desk", "pager"))
GONE = Reply(Outcome.UNKNOWN, reason="who knows")


def told_to(participant: Scripted) -> list[SagaStuck]:
    return [decode(SagaStuck, it.data) for it in participant.seen if it.type == STUCK]


@pytest.fixture
def desk() -> Scripted:
    return Scripted()


@pytest.fixture
def services(participants: dict[str, Scripted], desk: Scripted) -> dict[str, Scripted]:
    return {**participants, "desk": desk, "pager": Scripted()}


async def test_each_step_that_gets_stuck_is_told_to_the_services_named_and_to_the_function(
    engine: AsyncEngine, services: dict[str, Scripted], desk: Scripted
) -> None:
    called: list[SagaStuck] = []
    services["payments"].replies["payments.charge.v1"] = GONE
    async with running(
        engine, [BOOKING], services, settings=SETTINGS, on_stuck=called.append
    ) as node:
        id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
        await node.until_status(id, Status.STUCK)
        event = SagaStuck(id, "book-trip", "charge", "unknown: who knows")
        await until(lambda: told_to(desk) == [event], what="the desk is told")
        await until(lambda: told_to(services["pager"]) == [event], what="the pager, too")
        await until(lambda: called == [event], what="the function, too")
        await node.engine.signal(id, Retry("charge", "ann", "again"))
        await until(lambda: told_to(desk) == [event, event], what="it is told again")
        await node.engine.signal(id, Skip("charge", "ann", "by hand", None))
        await node.until_status(id, Status.COMPLETED)
    assert called == [event, event]
    sent = [it for name in ("desk", "pager") for it in services[name].seen if it.type == STUCK]
    assert len({it.id for it in sent}) == len(sent) == 4, "each is a message of its own"
    assert {it.correlation for it in sent} == {id}
    assert {it.key for it in sent} == {id}


async def test_a_run_that_is_stuck_from_its_beginning_is_told_of(
    engine: AsyncEngine, services: dict[str, Scripted], desk: Scripted
) -> None:
    saga = trip(replace(UNMAKEABLE_ROOM), TICKET)
    called: list[SagaStuck] = []
    async with running(engine, [saga], services, settings=SETTINGS, on_stuck=called.append) as node:
        id = (await node.engine.start(saga, Trip("one"))).instance_id
        await until(lambda: bool(told_to(desk)), what="the desk is told")
    (event,) = told_to(desk)
    assert (event.instance_id, event.step) == (id, "reserve room")
    assert "no room" in event.reason
    assert called == [event]


async def test_without_a_name_no_service_is_told(
    engine: AsyncEngine, services: dict[str, Scripted]
) -> None:
    services["payments"].replies["payments.charge.v1"] = GONE
    async with running(engine, [BOOKING], services) as node:
        id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
        await node.until_status(id, Status.STUCK)
        assert await node.rows(library.outbox) == []
    assert not any(told_to(it) for it in services.values())


async def test_a_function_that_raises_is_logged_and_changes_nothing(
    engine: AsyncEngine, services: dict[str, Scripted], caplog: pytest.LogCaptureFixture
) -> None:
    def raising(_: SagaStuck) -> None:
        raise RuntimeError("no pager")

    services["payments"].replies["payments.charge.v1"] = GONE
    async with running(engine, [BOOKING], services, settings=SETTINGS, on_stuck=raising) as node:
        id = (await node.engine.start(BOOKING, Trip("one"))).instance_id
        await node.until_status(id, Status.STUCK)
        await until(lambda: bool(told_to(services["desk"])), what="the desk is told all the same")
        await node.engine.signal(id, Skip("charge", "ann", "by hand", None))
        await node.until_status(id, Status.COMPLETED)
        assert node.engine.stats.failures == 0
    (line,) = [it for it in caplog.records if "on_stuck" in it.message]
    assert (line.levelno, line.exc_info is not None) == (logging.ERROR, True)


@pytest.mark.parametrize(
    ("point", "is_there"),
    [("engine: before commit", False), ("engine: after commit, before hand-over", True)],
)
async def test_the_event_is_there_if_and_only_if_the_run_is_stuck(
    engine: AsyncEngine, point: str, is_there: bool
) -> None:
    saga = trip(UNMAKEABLE_ROOM, TICKET)
    names = [*NAMES, "desk"]
    settings = EngineSettings(stuck_to=("desk",))
    node = make_node(engine, [saga], names, clock=FakeClock(), settings=settings)
    await node.shards.tend_once()
    node.committer.put([Begin(compose(1_900_000_000_000, 1), saga, Trip("one"))])
    with crash_at(point), pytest.raises(Crash):
        await node.committer.run_once()
    async with engine.connect() as connection:
        runs = (await connection.scalars(select(tables.saga.c.status))).all()
        events = (await connection.scalars(select(library.outbox.c.type))).all()
    assert (runs, events) == ((["STUCK"], [STUCK]) if is_there else ([], []))
