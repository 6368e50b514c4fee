"""P8: what waits, and what is remembered, is bounded; who comes too many is told to come back."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.settings import EngineSettings
from orchestrator.errors import Unavailable
from orchestrator.machine.instance import Status
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.replies import Outcome, Reply
from tests.support.orchestrator.engines import QUICK, Scripted, running
from tests.support.orchestrator.trips import BOOKING, ROOM, Trip, trip
from tests.support.processes.waiting import until

LARGE = 200_000


async def test_p8_starts_beyond_the_queue_are_told_to_come_back(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    settings = EngineSettings(relay=QUICK, queue=5)
    async with running(engine, [BOOKING], participants, settings=settings) as node:
        results = await asyncio.gather(
            *(node.engine.start(BOOKING, Trip(str(number))) for number in range(20)),
            return_exceptions=True,
        )
        refused = [it for it in results if isinstance(it, Unavailable)]
        assert len(refused) == 15
        for each in results:
            if not isinstance(each, BaseException):
                await node.until_status(each.instance_id, Status.COMPLETED)
        assert len(await node.rows(tables.saga)) == 5


async def test_p8_runs_beyond_the_cache_and_messages_beyond_memory_end_all_the_same(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    settings = EngineSettings(relay=QUICK, cached=3, offered=3, batch=8)
    async with running(engine, [BOOKING], participants, settings=settings) as node:
        started = await asyncio.gather(
            *(node.engine.start(BOOKING, Trip(str(number))) for number in range(40))
        )
        for each in started:
            await node.until_status(each.instance_id, Status.COMPLETED)
        assert await node.rows(library.outbox) == []


async def test_the_input_of_a_start_is_looked_at_once(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    looked_at: list[str] = []

    def key(it: Trip) -> str:
        looked_at.append(it.trip)
        return it.trip

    saga = replace(BOOKING, key=key)
    async with running(engine, [saga], participants) as node:
        started = await node.engine.start(saga, Trip("t1"))
        await node.until_status(started.instance_id, Status.COMPLETED)
    assert looked_at == ["t1"]


def large(number: int) -> Trip:
    """The input of a run that takes 200 KB."""
    return Trip(str(number), seat="x" * LARGE)


def bytes_of_inputs_in_memory() -> int:
    """What the states of all runs take that anything in this process still holds."""
    gc.collect()
    return sum(len(it.seat or "") for it in gc.get_objects() if isinstance(it, Trip))


async def test_p8_starts_with_more_bytes_than_may_wait_are_told_to_come_back(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    settings = EngineSettings(relay=QUICK, queue_bytes=5 * LARGE)
    async with running(engine, [BOOKING], participants, settings=settings) as node:
        for _ in range(2):  # what has left the queue makes room again
            before = len(await node.rows(tables.saga))
            results = await asyncio.gather(
                *(node.engine.start(BOOKING, large(before + number)) for number in range(20)),
                return_exceptions=True,
            )
            assert len([it for it in results if isinstance(it, Unavailable)]) == 15
            assert len(await node.rows(tables.saga)) == before + 5


async def test_p8_large_runs_that_wait_are_not_kept_in_memory(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    most = 10 * LARGE
    settings = EngineSettings(relay=QUICK, cached_bytes=most)
    participants["trains"].is_away = True
    async with running(engine, [BOOKING], participants, settings=settings) as node:
        ids = []
        for number in range(60):
            ids.append((await node.engine.start(BOOKING, large(number))).instance_id)
        assert bytes_of_inputs_in_memory() <= most
        participants["trains"].is_away = False
        for each in ids:
            await node.until_status(each, Status.COMPLETED)


async def test_p8_a_commit_takes_no_more_bytes_of_runs_than_it_may(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    settings = EngineSettings(relay=QUICK, batch_bytes=4 * LARGE, cached_bytes=LARGE // 2)
    participants["trains"].is_away = True
    async with running(engine, [BOOKING], participants, settings=settings) as node:
        started = await asyncio.gather(
            *(node.engine.start(BOOKING, large(number)) for number in range(20))
        )
        assert node.engine.stats.commits >= 6
        participants["trains"].is_away = False
        for each in started:
            await node.until_status(each.instance_id, Status.COMPLETED)


async def test_p8_the_history_of_a_command_is_bounded(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    hotels = participants["hotels"]
    hotels.replies["hotels.reserve-room.v1"] = Reply(Outcome.ONGOING)
    eager = replace(ROOM, retry=replace(ROOM.retry, first=0.01, ceiling=0.01, attempts=1000))
    saga = trip(replace(eager, deadline=timedelta(seconds=60)))
    async with running(engine, [saga], participants) as node:
        started = await node.engine.start(saga, Trip("one"))
        await until(lambda: len(hotels.seen) > 15, deadline=30, what="it was asked often")
        hotels.replies.clear()
        await node.until_status(started.instance_id, Status.COMPLETED)
        lines = await node.rows(tables.saga_history)
    assert len([it for it in lines if it.command_id is not None]) <= 20


async def test_p8_what_group_commits_leave_behind_is_removed(
    engine: AsyncEngine, participants: dict[str, Scripted]
) -> None:
    settings = EngineSettings(relay=QUICK, remember=timedelta(seconds=0))
    async with running(engine, [BOOKING], participants) as node:
        started = await node.engine.start(BOOKING, Trip("one"))
        await node.until_status(started.instance_id, Status.COMPLETED)
        assert await node.rows(tables.saga_batch)
    long_ago = SystemClock().now() - timedelta(days=1)
    async with engine.begin() as connection:
        await connection.execute(update(tables.saga_batch).values(made_at=long_ago))
    async with running(engine, [BOOKING], participants, settings=settings) as node:

        async def is_clean() -> bool:
            async with engine.connect() as connection:
                old = select(tables.saga_batch.c.id).where(tables.saga_batch.c.made_at <= long_ago)
                return (await connection.execute(old)).first() is None

        await until(is_clean, what="the old ids are gone")
