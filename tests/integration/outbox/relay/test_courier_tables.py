"""When a courier believes its memory, its floors and its marks, and when it reads the table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, cast

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.coordination.leases import Leases
from outbox.lanes import BUCKETS
from outbox.relay.hold_store import HoldStore
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.message_store import Store
from outbox.relay.verdicts import Pending
from outbox.replies import Reply
from outbox.tables import DEFAULT_TABLES, outbox, outbox_held
from outbox.testing import FakeClock
from outbox.transports.base import Accepted
from outbox.wire.envelope import Envelope
from tests.support.outbox.couriers import LONG, LONG_AGO, make_courier
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
    put,
)


async def seq_of(connection: AsyncConnection, id_: str) -> int:
    found: int = (
        await connection.execute(select(outbox.c.seq).where(outbox.c.id == id_))
    ).scalar_one()
    return found


# Memory


async def test_what_is_offered_of_a_bucket_with_a_resting_key_does_not_overtake_it(
    engine: AsyncEngine,
) -> None:
    feed, destination = MemoryQueue(100, 1 << 24), Destination(answer=lambda _: FAILED)
    courier = await make_courier(engine, destination, feed)
    (first,) = await commit(engine, message("k"))
    await courier.run_once()
    assert (await counts(engine))["outbox_held"] == 1
    await courier.run_once()  # reads the table to its end, of which the resting key is no part
    bucket, envelope = message("k")
    await commit(engine, (bucket, envelope))
    async with engine.connect() as connection:
        seq = await seq_of(connection, envelope.id)
    feed.offer([Pending(seq, bucket, envelope)])
    await courier.run_once()
    assert destination.ids == [first]


async def test_what_was_taken_from_memory_is_not_overtaken_after_a_round_that_failed(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([FAILED, DONE, DONE])
    memory, destination = MemoryQueue(100, 1 << 24), Destination(answer=lambda _: next(answers))
    courier = await make_courier(engine, destination, memory)
    await courier.run_once()  # every bucket is read to its end
    first, second = message("k"), message("k")

    async def offer(each: tuple[int, Envelope]) -> None:
        await commit(engine, each)
        async with engine.connect() as connection:
            memory.offer([Pending(await seq_of(connection, each[1].id), *each)])

    async def fail(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("the database is away")

    await offer(first)
    with monkeypatch.context() as patched:
        # Its hold cannot be written.
        patched.setattr(HoldStore, "hold", fail)
        with pytest.raises(ConnectionResetError):
            await courier.run_once()
    await offer(second)
    while await courier.run_once():
        pass
    assert destination.ids == [first[1].id, first[1].id, second[1].id]


async def test_a_bucket_that_was_lost_and_won_again_is_read_from_the_table(
    engine: AsyncEngine,
) -> None:
    memory, destination = MemoryQueue(100, 1 << 24), Destination()
    courier = await make_courier(engine, destination, memory)
    await courier.run_once()  # every bucket is read to its end
    bucket, envelope = message("k")
    others = {it: 1 for it in BUCKETS if it != bucket}
    courier.lease(Leases(others, math.inf))
    # Its holder of that time commits, and dies before it sends.
    await commit(engine, (bucket, envelope))
    courier.lease(Leases({**others, bucket: 2}, math.inf))
    await courier.run_once()
    assert destination.ids == [envelope.id]


class Deciding(asyncio.Event):
    """Is set when a task waits for it: then the rows go."""

    def __init__(self, engine: AsyncEngine, seqs: Sequence[int]) -> None:
        super().__init__()
        self._engine = engine
        self._seqs = seqs

    async def wait(self) -> Literal[True]:
        async with self._engine.begin() as connection:
            await connection.execute(delete(outbox).where(outbox.c.seq.in_(self._seqs)))
        self.set()
        return True


class LateSettlement:
    """Settles what it took no sooner than the courier waits for it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def take(
        self, destination: str, answers: Sequence[tuple[Pending, Reply | Accepted]]
    ) -> asyncio.Event:
        return Deciding(self._engine, [message.seq for message, _ in answers])

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        raise AssertionError(f"{envelope.id} became a dead letter: {reason}")


async def test_what_is_being_settled_is_not_fetched_and_sent_again(engine: AsyncEngine) -> None:
    destination = Destination()
    courier = await make_courier(
        engine, destination, MemoryQueue(100, 1 << 24), LateSettlement(engine)
    )
    bucket, envelope = message("k")
    await commit(engine, (bucket, envelope))
    await courier.run_once()
    assert (await counts(engine))["outbox"] == 1
    courier.distrust([bucket])
    await courier.run_once()
    assert destination.ids == [envelope.id]
    assert (await counts(engine))["outbox"] == 0


async def test_what_was_read_is_not_sent_again_where_it_is_offered_after_that(
    engine: AsyncEngine,
) -> None:
    """A commit is seen in the table before its committer has heard of it."""
    destination = Destination()
    memory = MemoryQueue(100, 1 << 24)
    courier = await make_courier(engine, destination, memory, LateSettlement(engine))
    bucket, envelope = message("k")
    await commit(engine, (bucket, envelope))
    async with engine.connect() as connection:
        seq = (await connection.execute(select(outbox.c.seq))).scalar_one()
    await courier.run_once()
    memory.offer([Pending(seq, bucket, envelope)])
    await courier.run_once()
    assert destination.ids == [envelope.id]


# LowWatermarks


@pytest.mark.databases("postgresql")
async def test_what_waited_behind_a_resting_key_leaves_right_after_it(engine: AsyncEngine) -> None:
    """The floor has risen over it meanwhile, since a key that rests is not looked for."""
    clock, replies = FakeClock(), {"k": FAILED}
    destination = Destination(answer=lambda it: replies.get(it.key, DONE))
    settings: dict[str, Any] = {"sweep": 3600.0, "park_after": 3600.0}
    relay = make_relay(engine, destination, clock=clock, retry=LONG, **settings)
    (first,) = await commit(engine, message("k"))
    await relay.run_once()
    (second,) = await commit(engine, message("k"))
    for _ in range(4):
        clock.advance(1.5)
        await drain(relay)
    replies.clear()
    async with engine.begin() as connection:
        await connection.execute(update(outbox_held).values(next_at=LONG_AGO))
    assert await drain(relay) == 2
    assert destination.ids == [first, first, second]


# Marks


class Interrupted:
    """A connection behind whose first statement something else happens."""

    def __init__(self, connection: AsyncConnection, then: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._then: Callable[[], Awaitable[None]] | None = then

    async def execute(self, statement: Any) -> Any:
        result = await self._connection.execute(statement)
        then, self._then = self._then, None
        if then is not None:
            await then()
        return result


@pytest.mark.databases("postgresql")
async def test_a_number_that_is_drawn_while_a_mark_is_taken_is_not_below_it(
    engine: AsyncEngine,
) -> None:
    store = Store(DEFAULT_TABLES, postgres=True, now=FakeClock().now)
    drawn: list[int] = []
    reading = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with reading.connect() as marking, engine.connect() as writing:

        async def draw() -> None:
            (id_,) = await put(writing, message("k"))
            drawn.append(await seq_of(writing, id_))

        interrupted = cast(AsyncConnection, Interrupted(marking, draw))
        seq, xid = await store.settled_mark(interrupted)
        is_proven = await store.oldest_xid(marking) >= xid
        assert drawn
        assert drawn[0] > seq or not is_proven, "a row of an open transaction counts as settled"
        await writing.rollback()
