"""Several requests in the air for one destination: who may be in them, and what the table shows
meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.coordination.leases import Leases
from outbox.lanes import BUCKETS
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.verdicts import Pending
from outbox.replies import Reply
from outbox.tables import outbox, outbox_lease
from outbox.testing import FakeClock
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope
from tests.support.outbox.air import Air
from tests.support.outbox.couriers import make_courier
from tests.support.outbox.relays import FAILED, commit, counts, message
from tests.support.processes.waiting import until


class Feed:
    """A courier that is fed from memory, and has read the table to its end."""

    def __init__(self, engine: AsyncEngine, courier: Courier, memory: MemoryQueue) -> None:
        self.courier = courier
        self._engine = engine
        self._memory = memory

    async def offer(self, *messages: tuple[int, Envelope]) -> list[str]:
        """Commit these messages and offer them in memory."""
        ids = await commit(self._engine, *messages)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(select(outbox.c.id, outbox.c.seq))).all()
        seqs = {row.id: row.seq for row in rows}
        self._memory.offer(Pending(seqs[it.id], bucket, it) for bucket, it in messages)
        return ids

    def go(self) -> asyncio.Task[int]:
        """Begin a round."""
        return asyncio.create_task(self.courier.run_once())


async def feed_of(
    engine: AsyncEngine,
    air: Air,
    clock: FakeClock | None = None,
    condition: Condition | None = None,
) -> Feed:
    memory = MemoryQueue(1000, 1 << 24)
    courier = await make_courier(engine, air, memory, clock=clock, condition=condition)
    await courier.run_once()
    return Feed(engine, courier, memory)


def same_bucket(count: int) -> list[str]:
    """So many keys of one bucket."""
    bucket, _ = message("k0")
    keys = (f"k{number}" for number in range(10_000))
    return [key for key in keys if message(key)[0] == bucket][:count]


async def test_a_key_is_in_one_request_at_most_however_many_are_in_the_air(
    engine: AsyncEngine,
) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    (first,) = await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    second, other = await feed.offer(message("k"), message("other"))
    two = feed.go()
    await air.until(2)
    assert air.ids == [[first], [other]]
    air.answer(1)
    assert await two == 1
    assert await feed.courier.run_once() == 0
    air.answer(0)
    assert await one == 1
    three = feed.go()
    await air.until(3)
    air.answer(2)
    await three
    assert air.ids == [[first], [other], [second]]
    assert (await counts(engine))["outbox"] == 0


async def test_a_request_leaves_beside_another_once_as_many_wait_as_that_one_has(
    engine: AsyncEngine,
) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    await feed.offer(*(message(f"a{n}") for n in range(3)))
    one = feed.go()
    await air.until(1)
    await feed.offer(message("b0"), message("b1"))
    assert await feed.courier.run_once() == 0
    await feed.offer(message("b2"))
    two = feed.go()
    await air.until(2)
    assert [len(ids) for ids in air.ids] == [3, 3]
    air.answer(0)
    air.answer(1)
    assert [await one, await two] == [3, 3]


async def test_what_is_in_the_air_is_not_fetched_from_the_table_again(engine: AsyncEngine) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    key, other = same_bucket(2)
    (first,) = await feed.offer(message(key))
    one = feed.go()
    await air.until(1)
    feed.courier.distrust([message(key)[0]])
    await commit(engine, message(key))
    (free,) = await commit(engine, message(other))
    two = feed.go()
    await air.until(2)
    assert air.ids == [[first], [free]]
    air.answer(0)
    air.answer(1)
    await asyncio.gather(one, two)
    three = feed.go()
    await air.until(3)
    air.answer(2)
    assert await three == 1
    assert (await counts(engine))["outbox"] == 0


async def test_a_round_that_ends_while_the_table_is_read_is_not_fetched_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    (first,) = await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    feed.courier.distrust(BUCKETS)
    fetch = feed.courier._store.fetch

    async def slowly(*given: object, **named: object) -> object:
        found = await fetch(*given, **named)  # type: ignore[arg-type]  # handed on as given
        if not one.done():
            air.answer(0)
            await one
        return found

    monkeypatch.setattr(feed.courier._store, "fetch", slowly)
    assert await feed.courier.run_once() == 0
    assert air.ids == [[first]]


async def test_what_was_left_out_for_a_round_that_ended_meanwhile_leaves_at_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    (first,) = await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    feed.courier.distrust(BUCKETS)
    (second,) = await commit(engine, message("k"))
    fetch = feed.courier._store.fetch

    async def slowly(*given: object, **named: object) -> object:
        found = await fetch(*given, **named)  # type: ignore[arg-type]  # handed on as given
        if not one.done():
            air.answer(0)
            await one
        return found

    monkeypatch.setattr(feed.courier._store, "fetch", slowly)
    two = feed.go()
    await air.until(2)
    air.answer(1)
    assert await two == 1
    assert air.ids == [[first], [second]]


@pytest.mark.databases("postgresql")
async def test_a_floor_does_not_pass_what_is_in_the_air(engine: AsyncEngine) -> None:
    air, clock = Air(), FakeClock()
    feed = await feed_of(engine, air, clock)
    key, other = same_bucket(2)
    (first,) = await feed.offer(message(key))
    one = feed.go()
    await air.until(1)
    for number in range(2, 5):
        # Each reads the table, with a mark that has moved on.
        clock.advance(1.5)
        feed.courier.distrust([message(key)[0]])
        await commit(engine, message(other))
        another = feed.go()
        await air.until(number)
        air.answer(number - 1)
        await another
    air.lose(0)
    await one
    clock.advance(20.0)
    again = feed.go()
    await air.until(5)
    air.answer(4)
    await again
    assert air.ids[4] == [first]


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_request_that_is_lost_takes_no_order_from_the_other(
    engine: AsyncEngine, lost: int
) -> None:
    air, clock = Air(), FakeClock()
    feed = await feed_of(engine, air, clock)
    keys = same_bucket(2)
    firsts = [(await feed.offer(message(keys[0])))[0]]
    rounds = [feed.go()]
    await air.until(1)
    firsts += await feed.offer(message(keys[1]))
    rounds.append(feed.go())
    await air.until(2)
    seconds = await feed.offer(*(message(key) for key in keys))
    air.answer(1 - lost)
    await rounds[1 - lost]
    air.lose(lost)
    await rounds[lost]
    clock.advance(20.0)
    while (await counts(engine))["outbox"]:
        round_ = feed.go()
        answered = len(air.requests)
        while not round_.done():
            if len(air.requests) > answered:
                air.answer(answered)
                answered += 1
            await asyncio.sleep(0)  # lets the round make its next request
    sent = [id_ for ids in air.ids for id_ in ids]
    assert sent.count(firsts[lost]) == 2
    assert sent.count(firsts[1 - lost]) == 1
    for first, second in zip(firsts, seconds, strict=True):
        assert sent.count(second) == 1
        assert max(at for at, it in enumerate(sent) if it == first) < sent.index(second)


async def test_a_failure_in_one_request_holds_no_key_of_the_other(engine: AsyncEngine) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    key, other = same_bucket(2)
    await feed.offer(message(key))
    one = feed.go()
    await air.until(1)
    await feed.offer(message(other))
    two = feed.go()
    await air.until(2)
    air.answer(0, FAILED)
    assert await one == 0
    air.answer(1)
    assert await two == 1
    await feed.offer(message(key))  # has to wait behind the first one
    (free,) = await feed.offer(message(other))
    three = feed.go()
    await air.until(3)
    air.answer(2)
    assert await three == 1
    assert air.ids[2] == [free]
    left = await counts(engine)
    assert left["outbox"] + left["outbox_parked"] == 2
    assert left["outbox_held"] == 1


async def test_a_lease_that_is_lost_with_two_in_the_air_writes_no_failure(
    engine: AsyncEngine,
) -> None:
    air = Air()
    feed = await feed_of(engine, air)
    (failed,) = await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    await feed.offer(message("other"))
    two = feed.go()
    await air.until(2)
    feed.courier.lease(Leases())
    async with engine.begin() as connection:
        await connection.execute(outbox_lease.update().values(epoch=2))
    air.answer(0, FAILED)
    air.answer(1)
    await asyncio.gather(one, two)
    assert (await counts(engine))["outbox_held"] == 0
    assert (await counts(engine))["outbox"] == 1
    assert await feed.courier.run_once() == 0
    feed.courier.lease(Leases(dict.fromkeys(BUCKETS, 2), 1e9))
    three = feed.go()
    await air.until(3)
    air.answer(2)
    await three
    assert air.ids[2] == [failed]


async def test_a_destination_that_loses_two_requests_is_silent_once_and_tried_by_one(
    engine: AsyncEngine,
) -> None:
    air, clock = Air(), FakeClock()
    condition = Condition("comments", clock=clock, batch=100, chance=lambda: 0.0)
    feed = await feed_of(engine, air, clock, condition)
    await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    await feed.offer(message("other"))
    two = feed.go()
    await air.until(2)
    air.lose(0)
    await one
    air.lose(1)
    await two
    assert condition.silence is not None
    assert condition.silence.deliveries == 1
    assert await feed.courier.run_once() == 0
    clock.advance(1.0)
    rounds = [feed.go() for _ in range(3)]
    await air.until(3)
    assert len(air.ids[2]) == 1
    air.lose(2)
    await asyncio.gather(*rounds)
    assert condition.silence.deliveries == 2
    assert len(air.requests) == 3


async def test_after_a_silence_no_request_is_made_beside_one_that_is_in_the_air(
    engine: AsyncEngine,
) -> None:
    air, clock = Air(), FakeClock()
    condition = Condition("comments", clock=clock, batch=100, chance=lambda: 0.0)
    feed = await feed_of(engine, air, clock, condition)
    ids = await feed.offer(*(message(f"k{n}") for n in range(2)))
    one = feed.go()
    await air.until(1)
    await feed.offer(*(message(f"m{n}") for n in range(2)))
    two = feed.go()
    await air.until(2)
    air.lose(0)
    await one
    # The other one is in the air for longer than the pause.
    clock.advance(1.0)
    three = feed.go()

    async def begun() -> object:
        return condition._waiting or len(air.requests) > 2

    await until(begun, what="the third round waits for its turn")
    assert len(air.requests) == 2
    air.answer(1)
    await two
    while not three.done():
        assert air.open <= 1
        if air.open:
            air.answer(len(air.requests) - 1)
        await asyncio.sleep(0)  # lets the round make its next request
    assert sorted(id_ for ids_ in air.ids[2:] for id_ in ids_) == sorted(ids)
    assert all(len(ids_) == 1 for ids_ in air.ids[2:])


class Undecided:
    """A settlement that decides when the test says so."""

    def __init__(self) -> None:
        self.decided: list[asyncio.Event] = []

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        self.decided.append(asyncio.Event())
        return self.decided[-1]

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        raise AssertionError(f"{envelope.id} became a dead letter: {reason}")


async def test_what_is_answered_while_others_are_being_settled_is_not_fetched_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    air, settlement = Air(), Undecided()
    memory = MemoryQueue(1000, 1 << 24)
    feed = Feed(engine, await make_courier(engine, air, memory, settlement), memory)
    await feed.courier.run_once()
    (first,) = await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    air.answer(0)
    await one
    await feed.offer(message("other"))
    two = feed.go()
    await air.until(2)
    feed.courier.distrust(BUCKETS)
    reading = feed.go()
    await until(_truth(lambda: feed.courier._is_reading), what="the table is to be read")
    air.answer(1)
    await two
    async with engine.begin() as connection:
        await connection.execute(outbox.delete().where(outbox.c.id == first))
    fetch = feed.courier._store.fetch

    async def before_it_is_decided(*given: object, **named: object) -> object:
        found = await fetch(*given, **named)  # type: ignore[arg-type]  # handed on as given
        async with engine.begin() as connection:
            await connection.execute(outbox.delete())
        settlement.decided[1].set()
        return found

    monkeypatch.setattr(feed.courier._store, "fetch", before_it_is_decided)
    settlement.decided[0].set()
    assert await reading == 0
    assert len(air.requests) == 2


async def test_all_that_wait_for_the_settlement_wait_to_its_end(engine: AsyncEngine) -> None:
    air, settlement = Air(), Undecided()
    memory = MemoryQueue(1000, 1 << 24)
    feed = Feed(engine, await make_courier(engine, air, memory, settlement), memory)
    await feed.courier.run_once()
    await feed.offer(message("k"))
    one = feed.go()
    await air.until(1)
    air.answer(0)
    await one
    settler = feed.courier._settler
    waiting = [asyncio.create_task(settler.settled()) for _ in range(2)]
    await asyncio.sleep(0)  # both have begun
    assert not any(task.done() for task in waiting)
    settlement.decided[0].set()
    await asyncio.gather(*waiting)


async def test_a_key_that_begins_to_rest_during_a_look_for_such_keys_is_not_forgotten(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = await feed_of(engine, Air())
    fetcher = feed.courier._fetcher

    async def look(*_: object) -> bool:
        fetcher.keys_may_rest = True  # as another round does that ends now
        return False

    fetcher.keys_may_rest = True
    monkeypatch.setattr(feed.courier._holds, "any", look)
    assert await feed.courier.run_once() == 0
    assert fetcher.keys_may_rest


def _truth(condition: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def look() -> object:
        return condition()

    return look
