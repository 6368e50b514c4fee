"""PostgreSQL's answer to a COMMIT is lost, in every way that a network can lose it.

The engine must find out what happened before it tells anybody anything: the old connection's
server process may commit long after the connection was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator import tables
from orchestrator.engine.commits import long_way, one_trip, recovery
from orchestrator.engine.commits.items import Started
from orchestrator.engine.engine import IdempotencyKey
from orchestrator.errors import Unavailable
from orchestrator.machine.instance import Status
from orchestrator.machine.signals import Cancel
from orchestrator.machine.transition import Happening
from outbox import tables as library
from tests.support.databases.databases import Database
from tests.support.faults.tcp_proxy import CommitProxy, Loss, commit_proxy
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.engines import Node, Scripted, running
from tests.support.orchestrator.trips import BOOKING, Trip
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")
FINGERPRINT = b"f" * 32
every_loss = pytest.mark.parametrize("loss", list(Loss), ids=lambda it: it.name.lower())
COMMITTED = {Loss.ANSWER, Loss.DELAYED}
"""Of a transaction that has written its id before its COMMIT: the look for it waits for that."""
COMMITTED_AT_ONCE = {Loss.ANSWER}
"""Of a statement that is the whole transaction: a late one finds that the look was there first."""


@pytest.fixture
async def proxy(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CommitProxy]:
    find_out = recovery.Recovery.find_out
    async with commit_proxy(database.url, "INSERT INTO saga_batch") as started:
        looked = started.looked = asyncio.Event()

        async def look(self: recovery.Recovery, batch: str, error: BaseException) -> None:
            try:
                await find_out(self, batch, error)
            finally:
                looked.set()

        monkeypatch.setattr(recovery.Recovery, "find_out", look)
        yield started


@pytest.fixture
async def engine(database: Database, proxy: CommitProxy, make_engine: MakeEngine) -> AsyncEngine:
    return make_engine(replace(database, url=proxy.in_front_of(database.url)))


@pytest.fixture
async def node(engine: AsyncEngine, participants: dict[str, Scripted]) -> AsyncIterator[Node]:
    async with running(engine, [BOOKING], participants) as started:
        yield started


async def assert_whole(node: Node) -> None:
    """Every run has ended once, and its history has neither gaps nor doubles."""
    lines = await node.rows(tables.saga_history)
    for run in await node.rows(tables.saga):
        own = sorted((it for it in lines if it.saga_id == run.id), key=lambda it: it.number)
        assert [it.number for it in own] == list(range(1, run.entries + 1))
        assert [it.happening for it in own].count(Happening.ENDED) == 1
        assert [it.happening for it in own][-1] == Happening.ENDED


def repeated(participants: dict[str, Scripted]) -> list[str]:
    """The ids of commands that arrived more than once."""
    seen = [it.id for participant in participants.values() for it in participant.seen]
    return sorted({it for it in seen if seen.count(it) > 1})


@every_loss
async def test_a_start_is_said_to_have_begun_exactly_when_its_lost_commit_took_place(
    node: Node, proxy: CommitProxy, participants: dict[str, Scripted], loss: Loss
) -> None:
    proxy.armed.append(loss)
    try:
        started = await node.engine.start(BOOKING, Trip("one"))
    except Unavailable:
        assert loss not in COMMITTED_AT_ONCE
        assert await node.rows(tables.saga) == []
        started = await node.engine.start(BOOKING, Trip("one"))
    else:
        assert loss in COMMITTED_AT_ONCE
    assert proxy.lost == [loss]
    await node.until_status(started.instance_id, Status.COMPLETED)
    assert len(await node.rows(tables.saga)) == 1
    await assert_whole(node)
    assert repeated(participants) == []


@every_loss
async def test_a_start_that_is_repeated_under_its_key_finds_what_its_lost_commit_left(
    node: Node, proxy: CommitProxy, loss: Loss
) -> None:
    key = IdempotencyKey("mine", FINGERPRINT)
    proxy.armed.append(loss)
    first: Started | None = None
    with contextlib.suppress(Unavailable):
        first = await node.engine.start(BOOKING, Trip("one"), key=key)
    again = await node.engine.start(BOOKING, Trip("one"), key=key)
    assert again.is_new is (first is None)
    assert first is None or first.instance_id == again.instance_id
    await node.until_status(again.instance_id, Status.COMPLETED)
    assert [it.id for it in await node.rows(tables.saga)] == [again.instance_id]
    await assert_whole(node)


@every_loss
async def test_a_cancel_is_said_to_be_taken_exactly_when_its_lost_commit_took_place(
    node: Node, proxy: CommitProxy, participants: dict[str, Scripted], loss: Loss
) -> None:
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, "reserve room")
    proxy.armed.append(loss)
    wanted = Status.COMPENSATED if loss in COMMITTED else Status.COMPLETED
    try:
        await node.engine.signal(started.instance_id, Cancel("ada", "not this one"))
    except Unavailable:
        assert loss not in COMMITTED
    else:
        assert loss in COMMITTED
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, wanted)
    assert proxy.lost == [loss]
    await assert_whole(node)


async def until_sent(node: Node, step: str) -> None:
    async def sent() -> bool:
        lines = await node.rows(tables.saga_history)
        return any(it.step == step and it.happening == Happening.SENT for it in lines)

    await until(sent, what=f"{step} is sent")


@every_loss
async def test_a_run_whose_commit_is_lost_goes_on_where_it_stands(
    node: Node, proxy: CommitProxy, participants: dict[str, Scripted], loss: Loss
) -> None:
    """The commit that takes in an answer and sends the next command."""
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, "reserve room")
    proxy.armed.append(loss)
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, Status.COMPLETED)
    assert proxy.lost == [loss]
    await assert_whole(node)
    lines = await node.rows(tables.saga_history)
    assert not [it for it in lines if it.happening == Happening.LATE_ANSWER]
    if loss in COMMITTED_AT_ONCE:
        # What was answered for good is not asked again.
        assert repeated(participants) == []


@every_loss
async def test_many_runs_end_while_commit_after_commit_is_lost(
    node: Node, proxy: CommitProxy, participants: dict[str, Scripted], loss: Loss
) -> None:
    async def begin(number: int) -> Started:
        key = IdempotencyKey(f"trip {number}", FINGERPRINT)
        while True:
            try:
                return await node.engine.start(BOOKING, Trip(str(number)), key=key)
            except Unavailable:
                await asyncio.sleep(0.01)  # as a caller does that asks again

    proxy.armed += [loss] * 4
    async with asyncio.timeout(60):
        started = await asyncio.gather(*(begin(number) for number in range(30)))
    for each in started:
        await node.until_status(each.instance_id, Status.COMPLETED, deadline=40)
    assert proxy.lost == [loss] * 4
    assert {it.instance_id for it in started} == {it.id for it in await node.rows(tables.saga)}
    assert len({it.instance_id for it in started}) == 30
    await assert_whole(node)
    assert await node.rows(library.outbox) == []


async def test_a_commit_is_not_taken_for_done_because_the_look_for_it_was_lost_too(
    node: Node, proxy: CommitProxy
) -> None:
    """An engine that finds out by writing the id must not find its own writing."""
    proxy.armed += [Loss.COMMIT, Loss.ANSWER]
    with pytest.raises(Unavailable):
        await node.engine.start(BOOKING, Trip("one"))
    assert await node.rows(tables.saga) == []
    started = await node.engine.start(BOOKING, Trip("one"))
    await node.until_status(started.instance_id, Status.COMPLETED)
    await assert_whole(node)


async def test_nor_is_one_of_several_statements(
    node: Node, proxy: CommitProxy, participants: dict[str, Scripted]
) -> None:
    participants["hotels"].is_away = True
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, "reserve room")
    proxy.armed += [Loss.COMMIT, Loss.ANSWER]
    with pytest.raises(Unavailable):
        await node.engine.signal(started.instance_id, Cancel("ada", "not this one"))
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, Status.COMPLETED)
    await assert_whole(node)


async def test_the_look_for_a_lost_commit_needs_no_second_connection_of_the_pool(
    node: Node,
    proxy: CommitProxy,
    participants: dict[str, Scripted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: set[object] = set()
    at_the_looks: list[int] = []

    @contextlib.asynccontextmanager
    async def noted(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with recovery.connected(engine) as connection:
            held.add(connection)
            try:
                yield connection
            finally:
                held.remove(connection)

    async def look(self: recovery.Recovery, batch: str, error: BaseException) -> None:
        at_the_looks.append(len(held))
        await find_out(self, batch, error)

    find_out = recovery.Recovery.find_out
    monkeypatch.setattr(one_trip, "connected", noted)
    monkeypatch.setattr(long_way, "connected", noted)
    monkeypatch.setattr(recovery.Recovery, "find_out", look)
    participants["hotels"].is_away = True
    proxy.armed.append(Loss.ANSWER)
    started = await node.engine.start(BOOKING, Trip("one"))
    await until_sent(node, "reserve room")
    proxy.armed.append(Loss.ANSWER)
    await node.engine.signal(started.instance_id, Cancel("ada", "not this one"))
    assert (proxy.lost, at_the_looks) == ([Loss.ANSWER, Loss.ANSWER], [0, 0])
    participants["hotels"].is_away = False
    await node.until_status(started.instance_id, Status.COMPENSATED)


async def test_a_commit_that_comes_after_the_look_for_it_does_nothing(
    node: Node, proxy: CommitProxy
) -> None:
    """What waits has not written its id yet, so the look must leave that for it to find."""
    proxy.armed.append(Loss.DELAYED)
    with pytest.raises(Unavailable):
        await node.engine.start(BOOKING, Trip("one"))
    await until(lambda: proxy.late == 1, what="the server has the statement")
    assert await node.rows(tables.saga) == []
