"""Two nodes on one PostgreSQL: one hears at once of what another left for it. By itself a node
looks only every ten minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
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
from tests.support.orchestrator.engines import QUICK, Node, Scripted, running
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
    async with AsyncExitStack() as stack:
        started = []
        for number in range(2):
            node = running(
                make_engine(database), [BOOKING], participants, settings=WOKEN, owner=f"n{number}"
            )
            started.append(await stack.enter_async_context(node))

        async def ready() -> bool:
            if len(await listeners(started[0].database.engine)) < 2:
                return False
            return all(len(it.engine.shards) == 8 for it in started)

        await until(ready, deadline=20, what="the shards are shared out, and both nodes listen")
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
