"""Two nodes on one PostgreSQL: one hears at once of what another left for it. By itself a node
looks only every ten minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from orchestrator.engine.settings import EngineSettings
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart, dump_start
from outbox.clock import SystemClock
from outbox.ids import compose
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.engines import QUICK, Node, Scripted, two_running
from tests.support.orchestrator.nodes import make_ports
from tests.support.orchestrator.trips import BOOKING, Trip
from tests.support.outbox.wake_ups import listeners
from tests.support.processes.waiting import RARELY, until

pytestmark = pytest.mark.databases("postgresql")

WOKEN = EngineSettings(relay=replace(QUICK, poll=RARELY))


@pytest.fixture
async def nodes(
    database: Database, make_engine: MakeEngine, participants: dict[str, Scripted]
) -> AsyncIterator[list[Node]]:
    engines = [make_engine(database) for _ in range(2)]
    async with two_running(engines, [BOOKING], participants, settings=WOKEN) as started:

        async def listen() -> bool:
            return len(await listeners(engines[0])) >= 2

        await until(listen, deadline=20, what="both nodes listen")
        yield started


async def test_an_operators_signal_reaches_the_node_that_owns_the_run(
    nodes: list[Node], participants: dict[str, Scripted]
) -> None:
    first, second = nodes
    for participant in participants.values():
        participant.is_away = True
    run = (await first.engine.start(BOOKING, Trip("1"))).instance_id
    await second.engine.signal(run, Cancel("ann", "changed her mind"))
    for participant in participants.values():
        participant.is_away = False
    await first.until_status(run, Status.COMPENSATED)


async def test_a_start_that_came_as_a_message_reaches_the_node_that_owns_its_shard(
    nodes: list[Node],
) -> None:
    first, second = nodes
    clock = SystemClock()
    millis = int(clock.now().timestamp() * 1000)
    run = next(
        it
        for it in (compose(millis, number) for number in range(1000))
        if shard_of(it) in first.engine.shards
    )
    kind, payload = dump_start(StoredStart(BOOKING.name, {"trip": "1"}, "articles"))
    async with second.database.engine.begin() as connection:
        signals = make_ports(second.database.engine, clock).signals
        await signals.add(connection, [(run, shard_of(run), kind, payload)])
    second.bell.ring()  # as the handler of the message does after its commit
    await second.until_status(run, Status.COMPLETED, deadline=15)
