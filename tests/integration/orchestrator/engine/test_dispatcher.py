"""What a node has in the air for one participant at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.engine.dispatcher import Dispatcher, Line
from orchestrator.engine.settings import EngineSettings
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.sharding import LEASED_AS, SHARDS, bucket
from outbox.coordination.leases import Leases
from outbox.coordination.progress import Progress
from outbox.lanes import BUCKETS, Lane
from outbox.relay.ports import RelayPorts
from outbox.relay.verdicts import Pending
from outbox.replies import Reply
from outbox.tables import DEFAULT_TABLES, outbox
from outbox.testing import FakeClock
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope
from tests.support.outbox.air import Air
from tests.support.outbox.relays import message


class Unread:
    """A settlement whose answers no run awaits."""

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        decided = asyncio.Event()
        decided.set()
        return decided

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        raise AssertionError(f"{envelope.id} became a dead letter: {reason}")


async def dispatcher_of(engine: AsyncEngine, air: Air) -> Dispatcher:
    """A dispatcher that has every shard for ever, and has read the table to its end."""
    clock = FakeClock()
    dispatcher = Dispatcher(
        engine,
        {"hotel": air},
        Unread(),
        name=lambda: "node",
        clock=clock,
        settings=EngineSettings(),
        ports=RelayPorts.of(engine, DEFAULT_TABLES, clock, leased_as=LEASED_AS),
        progress=Progress(clock.monotonic),
        chance=lambda: 0.0,
    )
    dispatcher.lease(Leases(dict.fromkeys(SHARDS, 1), math.inf))
    for line in dispatcher.lines.values():
        assert await line.courier.run_once() == 0
    return dispatcher


async def hand_over(
    dispatcher: Dispatcher, engine: AsyncEngine, *commands: tuple[str, Lane, int]
) -> list[str]:
    """Commit a command for each (key, lane, shard), and hand them over; their ids."""
    messages = [
        OutgoingMessage("hotel", bucket(lane, shard), message(key)[1])
        for key, lane, shard in commands
    ]
    async with engine.begin() as connection:
        for it in messages:
            row = {**it.row(), "occurred_at": it.envelope.time}
            row["id"] = it.envelope.id
            await connection.execute(insert(outbox).values(**row))
        found: Sequence[Any] = (await connection.execute(select(outbox.c.id, outbox.c.seq))).all()
    dispatcher.hand_over(messages, {it.id: it.seq for it in found})
    return [it.envelope.id for it in messages]


def lines_of(dispatcher: Dispatcher) -> dict[Lane, Line]:
    return {line.lane: line for line in dispatcher.lines.values()}


async def test_an_undo_leaves_while_its_action_is_in_the_air(engine: AsyncEngine) -> None:
    air = Air()
    dispatcher = await dispatcher_of(engine, air)
    lines = lines_of(dispatcher)
    (action,) = await hand_over(dispatcher, engine, ("run/book", Lane.NORMAL, 3))
    acting = asyncio.create_task(lines[Lane.NORMAL].courier.run_once())
    await air.until(1)
    (undo,) = await hand_over(dispatcher, engine, ("run/book", Lane.URGENT, 3))
    undoing = asyncio.create_task(lines[Lane.URGENT].courier.run_once())
    await air.until(2)
    assert air.ids == [[action], [undo]]
    air.answer(1)
    assert await undoing == 1
    air.answer(0)
    assert await acting == 1


async def test_each_bucket_is_one_couriers(engine: AsyncEngine) -> None:
    dispatcher = await dispatcher_of(engine, Air())
    held = [it for line in dispatcher.lines.values() for it in line.courier.leases.epochs]
    assert sorted(held) == list(BUCKETS)
    dispatcher.lease(Leases({5: 2}, math.inf))
    held = [it for line in dispatcher.lines.values() for it in line.courier.leases.epochs]
    assert sorted(held) == [bucket(Lane.URGENT, 5), bucket(Lane.NORMAL, 5)]


@pytest.mark.parametrize("is_backlog", [True, False])
async def test_what_one_request_has_no_room_for_leaves_beside_it(
    engine: AsyncEngine, is_backlog: bool
) -> None:
    air = Air()
    dispatcher = await dispatcher_of(engine, air)
    commands = [(f"run/{number}", Lane.NORMAL, number % 16) for number in range(150)]
    await hand_over(dispatcher, engine, *commands)
    if is_backlog:
        dispatcher.distrust(SHARDS)
    one = asyncio.create_task(lines_of(dispatcher)[Lane.NORMAL].courier.run_once())
    await air.until(2)
    assert sum(map(len, air.ids)) == 150
    air.answer(0)
    air.answer(1)
    assert await one == 150


async def test_what_fits_one_request_is_in_one(engine: AsyncEngine) -> None:
    air = Air()
    dispatcher = await dispatcher_of(engine, air)
    commands = [(f"run/{number}", Lane.NORMAL, number % 16) for number in range(100)]
    await hand_over(dispatcher, engine, *commands)
    one = asyncio.create_task(lines_of(dispatcher)[Lane.NORMAL].courier.run_once())
    await air.until(1)
    assert [len(ids) for ids in air.ids] == [100]
    air.answer(0)
    assert await one == 100


@pytest.mark.parametrize("lane", list(Lane))
async def test_a_silence_in_one_lane_is_one_in_the_other(engine: AsyncEngine, lane: Lane) -> None:
    air = Air()
    dispatcher = await dispatcher_of(engine, air)
    await hand_over(dispatcher, engine, ("run/a", Lane.URGENT, 3), ("run/b", Lane.NORMAL, 3))
    rounds = [
        asyncio.create_task(line.courier.run_once())
        for line in sorted(dispatcher.lines.values(), key=lambda it: it.lane is not lane)
    ]
    await air.until(2)
    air.lose(0)
    await rounds[0]
    assert list(dispatcher.silences()) == ["hotel"]
    air.lose(1)
    await rounds[1]
    assert dispatcher.silences()["hotel"].deliveries == 1
    for line in dispatcher.lines.values():
        assert await line.courier.run_once() == 0
    assert len(air.requests) == 2


async def test_a_round_that_hangs_is_seen_however_many_others_end(engine: AsyncEngine) -> None:
    dispatcher = await dispatcher_of(engine, Air())
    purposes = [it for line in dispatcher.lines.values() for it in line.purposes]
    assert len(set(purposes)) == len(purposes) == 3
    assert all(it.startswith("send to hotel") for it in purposes)
