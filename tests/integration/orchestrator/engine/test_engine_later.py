"""Runs for later: they stand until their time, and begin then as a start of that moment does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from orchestrator import tables
from orchestrator.engine.commits.items import Begin, Item, Look, Started, Tell
from orchestrator.engine.node import Node
from orchestrator.machine.signals import Cancel, Pause, Resume, Terminate
from orchestrator.store import queries
from orchestrator.store.start_store import StartKey
from outbox.ids import compose, first_at, time_of
from outbox.replies import Outcome, Reply
from outbox.tables import DEFAULT_TABLES
from outbox.testing import FakeClock, crash_at
from outbox.wire.json_types import shape_of
from tests.support.databases.databases import Database, Schema
from tests.support.databases.in_time import engine_in_time, in_time
from tests.support.orchestrator.engines import Scripted, opened, orchestrator_tables
from tests.support.orchestrator.nodes import make_node, make_ports
from tests.support.orchestrator.stepping import Asking, go_on, told
from tests.support.orchestrator.trips import BOOKING, NAMES, Trip

DAY = timedelta(days=1)
ALONE = replace(BOOKING, one_active=True)
TRIP = {"trip": "t1"}
LATER, OTHER, THIRD = (compose(1_893_456_000_000, number) for number in (1, 2, 3))


@dataclass
class World:
    """One node, its participants and its clock."""

    clock: FakeClock
    engine: AsyncEngine
    participants: dict[str, Scripted]
    asking: Asking
    node: Node

    def another_node(self, owner: str) -> Node:
        return make_node(
            self.engine,
            [ALONE],
            NAMES,
            clock=self.clock,
            transports=self.participants,
            owner=owner,
            is_dead=lambda _: True,
        )

    async def pass_(self, time: timedelta) -> None:
        self.clock.advance(time.total_seconds())
        await go_on(self.node)

    async def schedule(self, saga_id: str = LATER, after: timedelta = 45 * DAY) -> None:
        begin_at = self.clock.now() + after
        await self.asking.start(saga_id, TRIP, begin_at=begin_at)
        await go_on(self.node)

    async def commit(self, *items: Item) -> None:
        """One commit of these, in this order, and of nothing that lies in the database."""
        self.node.committer.in_trouble(1)
        self.node.committer.put(items)
        assert await self.node.committer.run_once() == len(items)

    async def status(self, saga_id: str) -> str | None:
        row = await self.asking.run(saga_id)
        return None if row is None else str(row.status)

    def sent(self) -> list[str]:
        return [it for name in ("trains", "hotels") for it in self.participants[name].types()]

    async def history(self, saga_id: str) -> list[str]:
        lines = await self.asking.rows(tables.saga_history)
        return [it.happening for it in lines if it.saga_id == saga_id]


@pytest.fixture
def database_schema() -> Schema:
    return in_time(orchestrator_tables)


@pytest.fixture
async def world(database: Database, participants: dict[str, Scripted]) -> AsyncIterator[World]:
    clock = FakeClock()
    async with engine_in_time(database, clock) as engine:
        node = make_node(engine, [ALONE], NAMES, clock=clock, transports=participants)
        world = World(clock, engine, participants, Asking(engine, clock), node)
        await go_on(node)
        yield world


# Its time


async def test_it_sends_nothing_until_its_time_and_then_gets_the_number_of_that_moment(
    world: World,
) -> None:
    await world.schedule()
    row = await world.asking.run(LATER)
    assert (row.status, row.number, row.active_key) == ("SCHEDULED", None, None)
    assert row.begin_at == row.due_at == world.clock.now() + 45 * DAY
    await world.pass_(44 * DAY)
    assert (await world.status(LATER), world.sent()) == ("SCHEDULED", [])
    await world.pass_(DAY)
    row = await world.asking.run(LATER)
    assert (row.status, row.begin_at) == ("COMPLETED", None)
    assert abs(time_of(row.number) - world.clock.now()) < timedelta(minutes=1)
    (reserved,) = (it for it in world.participants["hotels"].seen)
    assert (reserved.correlation, reserved.run_number) == (LATER, row.number)
    assert (await world.history(LATER))[:3] == ["scheduled", "started", "sent"]
    assert [(it.instance_id, it.status) for it in told(world.participants["mails"])] == [
        (LATER, "COMPLETED")
    ]


async def test_a_caller_of_the_api_gets_the_scheduled_run_and_the_same_one_again(
    world: World,
) -> None:
    begin_at = world.clock.now() + DAY
    for number in (OTHER, THIRD):
        key = StartKey("book-trip", "k", b"f" * 32, number)
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        begin = Begin(number, ALONE, Trip("t1"), key=key, done=done, begin_at=begin_at)
        world.node.committer.put([begin])
        await go_on(world.node)
        assert done.result().instance_id == OTHER
    assert [it.status for it in await world.asking.rows(tables.saga)] == ["SCHEDULED"]


async def test_many_begin_at_their_times_and_each_once(world: World) -> None:
    ids = [compose(1_893_456_000_000, 100 + number) for number in range(30)]
    for number, saga_id in enumerate(ids):
        begin_at = world.clock.now() + timedelta(hours=number // 3)
        await world.asking.start(saga_id, {"trip": f"t{number}"}, begin_at=begin_at)
    for _ in range(11):
        await world.pass_(timedelta(hours=1))
    assert {it.status for it in await world.asking.rows(tables.saga)} == {"COMPLETED"}
    charged = world.participants["payments"].seen
    assert len(charged) == len({it.id for it in charged}) == 30


# Its key


async def test_another_run_of_its_key_may_come_and_go_before_it_begins(world: World) -> None:
    await world.schedule()
    await world.asking.start(OTHER, TRIP)
    await go_on(world.node)
    assert await world.status(OTHER) == "COMPLETED"
    await world.pass_(45 * DAY)
    assert await world.status(LATER) == "COMPLETED"


async def _active(world: World) -> None:
    """Another run of the key, which waits for its hotel."""
    world.participants["hotels"].replies["hotels.reserve-room.v1"] = Reply(Outcome.ONGOING)
    await world.asking.start(OTHER, TRIP)
    await go_on(world.node)
    assert await world.status(OTHER) == "RUNNING"


async def test_one_that_loses_at_its_begin_becomes_an_alias_and_hears_of_that_end(
    world: World,
) -> None:
    await world.schedule(after=timedelta(seconds=60))
    await _active(world)
    await world.pass_(timedelta(seconds=60))
    (alias,) = await world.asking.rows(tables.saga_alias)
    assert (alias.id, alias.saga_id, alias.originator) == (LATER, OTHER, "mails")
    assert await world.asking.run(LATER) is None
    assert await world.history(LATER) == []
    found = await queries.find(opened(world.engine), LATER)
    assert found is not None
    assert found.id == OTHER
    world.participants["hotels"].replies.clear()
    await world.pass_(timedelta(minutes=2))
    assert sorted((it.instance_id, it.status) for it in told(world.participants["mails"])) == [
        (LATER, "COMPLETED"),
        (OTHER, "COMPLETED"),
    ]
    await world.asking.start(LATER, TRIP, message_id=THIRD)
    await go_on(world.node)
    assert [it.instance_id for it in told(world.participants["mails"])].count(LATER) == 2


async def test_one_that_begins_in_the_commit_in_which_the_other_ends_takes_the_key(
    world: World,
) -> None:
    await world.schedule(after=timedelta(seconds=60))
    await _active(world)
    world.clock.advance(60)
    await world.node.shards.tend_once()
    await world.commit(Look(LATER), Tell(OTHER, Terminate("ada", "no room")))
    assert await world.asking.rows(tables.saga_alias) == []
    assert (await world.status(OTHER), await world.status(LATER)) == ("TERMINATED", "RUNNING")


async def test_two_of_one_key_at_one_time_are_one_run_and_its_alias(world: World) -> None:
    for saga_id in (LATER, OTHER):
        await world.schedule(saga_id)
    await world.pass_(45 * DAY)
    (run,) = await world.asking.rows(tables.saga)
    (alias,) = await world.asking.rows(tables.saga_alias)
    assert ({run.id, alias.id}, alias.saga_id) == ({LATER, OTHER}, run.id)
    assert len(told(world.participants["mails"])) == 2
    assert world.sent().count("hotels.reserve-room.v1") == 1


# Operators


async def test_cancelled_before_its_time_it_ends_and_nothing_was_ever_sent(world: World) -> None:
    await world.schedule()
    await world.asking.signal(LATER, Cancel("ada", "not this year"))
    await go_on(world.node)
    row = await world.asking.run(LATER)
    assert (row.status, row.due_at) == ("COMPENSATED", None)
    (news,) = told(world.participants["mails"])
    assert (news.status, news.code, news.reason) == ("COMPENSATED", "cancelled", "not this year")
    await world.pass_(50 * DAY)
    assert (world.sent(), await world.status(LATER)) == ([], "COMPENSATED")


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_cancel_in_the_commit_in_which_it_would_begin_is_not_lost(
    world: World, cancel_first: bool
) -> None:
    await world.schedule(after=timedelta(seconds=60))
    world.clock.advance(60)
    await world.node.shards.tend_once()
    asked: list[Item] = [Tell(LATER, Cancel("ada", "no")), Look(LATER)]
    await world.commit(*(asked if cancel_first else asked[::-1]))
    await go_on(world.node)
    assert await world.status(LATER) == "COMPENSATED"
    assert bool(world.sent()) is not cancel_first
    assert world.participants["payments"].seen == []


async def test_paused_it_does_not_begin_and_resumed_after_its_time_it_does_at_once(
    world: World,
) -> None:
    await world.schedule()
    await world.asking.signal(LATER, Pause("ada", "let me look"))
    await go_on(world.node)
    await world.pass_(50 * DAY)
    row = await world.asking.run(LATER)
    assert (row.status, row.paused, world.sent()) == ("SCHEDULED", True, [])
    await world.asking.signal(LATER, Resume("ada", "fine"))
    await go_on(world.node)
    assert await world.status(LATER) == "COMPLETED"


async def test_a_step_of_the_same_commit_comes_before_its_begin(world: World) -> None:
    await world.schedule(after=timedelta(seconds=60))
    world.clock.advance(60)
    await world.node.shards.tend_once()
    signals = (Pause("ada", "wait"), Resume("ada", "go on"))
    await world.commit(*(Tell(LATER, signal) for signal in signals), Look(LATER))
    assert await world.status(LATER) == "SCHEDULED"
    assert await world.history(LATER) == ["scheduled", "operator", "operator"]
    await go_on(world.node)
    assert await world.status(LATER) == "COMPLETED"
    assert world.sent().count("hotels.reserve-room.v1") == 1


# Crashes, and several nodes


@pytest.mark.parametrize(
    "point", ["engine: before commit", "engine: after commit, before hand-over"]
)
async def test_a_node_that_dies_over_its_begin_leaves_it_to_begin_once(
    world: World, point: str
) -> None:
    await world.schedule()
    world.clock.advance((45 * DAY).total_seconds())
    await world.node.shards.tend_once()
    world.node.committer.look()
    with crash_at(point):
        await world.node.committer.run_once()
    second = world.another_node("second")
    await go_on(second)
    assert await world.status(LATER) == "COMPLETED"
    assert (await world.history(LATER)).count("started") == 1
    assert world.sent().count("hotels.reserve-room.v1") == 1


async def test_a_node_that_lost_the_shard_does_not_let_it_begin(world: World) -> None:
    await world.schedule()
    world.clock.advance((45 * DAY).total_seconds())
    second = world.another_node("second")
    await second.shards.tend_once()
    assert second.shards.leases.epochs, "the first one's lease is over"
    world.node.committer.put([Look(LATER)])
    await world.node.committer.run_once()
    assert await world.status(LATER) == "SCHEDULED"
    await go_on(second)
    assert await world.status(LATER) == "COMPLETED"
    assert world.sent().count("hotels.reserve-room.v1") == 1


class OldTimerKind(StrEnum):
    """The timers that the version before knew."""

    DEADLINE = "deadline"
    REPEAT = "repeat"


@dataclass(frozen=True)
class OldTimer:
    kind: OldTimerKind
    command_id: str


@dataclass(frozen=True)
class OldDocument:
    timers: tuple[OldTimer, ...] = ()


async def test_older_code_cannot_read_a_scheduled_run_so_it_parks_it_for_newer_code(
    world: World,
) -> None:
    await world.schedule(after=timedelta(seconds=1))
    row = await world.asking.run(LATER)
    with pytest.raises(ValueError, match="timers"):
        shape_of(OldDocument).read(row.document.encode())
    async with world.engine.begin() as connection:
        await connection.execute(update(tables.saga).values(parked="what is stored does not fit"))
    await world.pass_(timedelta(seconds=2))
    assert (await world.status(LATER), world.sent()) == ("SCHEDULED", [])
    world.clock.advance(60)
    await go_on(world.another_node("second"))
    assert await world.status(LATER) == "COMPLETED"


# Retention


async def test_it_counts_as_live_only_from_its_begin_on(world: World) -> None:
    """It has sent nothing, and a thousand of them must not keep inboxes from their purge."""
    world.participants["hotels"].replies["hotels.reserve-room.v1"] = Reply(Outcome.ONGOING)
    await world.schedule()
    runs = make_ports(world.engine, world.clock).runs

    async def live() -> tuple[list[str], list[str]]:
        top = first_at(world.clock.now() + DAY)
        async with world.engine.connect() as connection:
            named = await runs.live(connection, top, 10)
        async with AsyncSession(world.engine) as session:
            answered = await queries.live_numbers(session, DEFAULT_TABLES, compose(0, 0), top, 10)
        return list(named), list(answered)

    assert await live() == ([], [])
    await world.pass_(45 * DAY)
    number = (await world.asking.run(LATER)).number
    assert await live() == ([LATER, number], [LATER, number])
