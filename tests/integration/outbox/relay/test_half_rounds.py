"""Two rounds of a relay side by side while much waits: what is in each, and what one of them may
take for granted of the other."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination.leases import Leases
from outbox.ids import compose
from outbox.lanes import BUCKETS
from outbox.relay.courier import Courier
from outbox.relay.settler import Settler
from outbox.tables import outbox, outbox_held, outbox_lease
from outbox.testing import FakeClock
from tests.support.outbox.air import Air
from tests.support.outbox.couriers import keys_of_buckets, make_courier
from tests.support.outbox.relays import FAILED, commit, counts, message, put
from tests.support.processes.waiting import until

FETCH = 8
"""Messages in memory at most; each half of it is less than what waits in two buckets."""


class Backlog:
    """A courier with more to send than two rounds can take, which has found that out. Of each
    message, `keys` tells its key."""

    def __init__(self, engine: AsyncEngine, air: Air, courier: Courier) -> None:
        self.engine = engine
        self.air = air
        self.courier = courier
        self.keys: dict[str, str] = {}

    async def add(self, *keys: str) -> list[str]:
        """Commit a message for each of these keys."""
        ids = await commit(self.engine, *(message(key) for key in keys))
        self.keys.update(zip(ids, keys, strict=True))
        return ids

    async def both_in_the_air(self) -> asyncio.Task[float]:
        """Begin a step, and wait until it has two requests in the air."""
        before = len(self.air.requests)
        step = asyncio.create_task(self.courier.step())
        await self.air.until(before + 2)
        return step

    async def answer_until(self, task: asyncio.Task[Any]) -> None:
        """Answer each request until the task is done."""
        while not task.done():
            for number, (_, answer) in enumerate(self.air.requests):
                if not answer.done():
                    self.air.answer(number)
            await asyncio.sleep(0.001)  # the database answers meanwhile

    async def drain(self) -> None:
        """Answer all that is sent until nothing is left."""
        while (await counts(self.engine))["outbox"]:
            await self.answer_until(asyncio.create_task(self.courier.step()))

    def buckets(self, request: int) -> set[int]:
        """The buckets of a request's messages."""
        return {message(self.keys[id_])[0] for id_ in self.air.ids[request]}


async def backlog_of(engine: AsyncEngine, keys: list[str], **given: Any) -> Backlog:
    air = Air()
    courier = await make_courier(engine, air, None, **{"fetch": FETCH, "width": 2, **given})
    backlog = Backlog(engine, air, courier)
    await backlog.add(*keys * 10)
    for _ in range(2):  # the first finds out that much waits, the second in which buckets
        await backlog.answer_until(asyncio.create_task(courier.run_once()))
    return backlog


async def test_two_rounds_side_by_side_have_no_bucket_in_common(engine: AsyncEngine) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    assert backlog.buckets(sent)
    assert backlog.buckets(sent).isdisjoint(backlog.buckets(sent + 1))
    await backlog.answer_until(step)
    await backlog.drain()
    in_order = [id_ for ids in backlog.air.ids for id_ in ids]
    assert sorted(in_order) == sorted(backlog.keys)
    for key in set(backlog.keys.values()):
        of_key = [id_ for id_ in backlog.keys if backlog.keys[id_] == key]
        assert [id_ for id_ in in_order if id_ in of_key] == of_key


async def test_one_round_goes_on_while_the_request_of_the_other_is_in_the_air(
    engine: AsyncEngine,
) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    slow, quick = backlog.buckets(sent), backlog.buckets(sent + 1)
    backlog.air.answer(sent + 1)
    await backlog.air.until(sent + 3)
    assert backlog.buckets(sent + 2) == quick
    assert slow.isdisjoint(quick)
    await backlog.answer_until(step)


async def test_two_rounds_have_together_what_one_may_have_in_memory(engine: AsyncEngine) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    step = await backlog.both_in_the_air()
    assert sum(len(ids) for ids in backlog.air.ids[-2:]) <= FETCH
    await backlog.answer_until(step)


async def test_a_lease_that_is_lost_after_a_half_was_read_sends_nothing_of_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = list(backlog.air.ids)
    fetch = backlog.courier._store.fetch

    async def late(*given: Any, **named: Any) -> Any:
        found = await fetch(*given, **named)
        backlog.courier.lease(Leases())
        return found

    monkeypatch.setattr(backlog.courier._store, "fetch", late)
    await backlog.courier.step()
    assert backlog.air.ids == sent


async def test_a_lease_that_is_lost_with_both_halves_in_the_air_writes_no_failure(
    engine: AsyncEngine,
) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    backlog.courier.lease(Leases())
    async with engine.begin() as connection:
        await connection.execute(outbox_lease.update().values(epoch=2))
    backlog.air.answer(sent, FAILED)
    backlog.air.answer(sent + 1)
    await step
    assert (await counts(engine))["outbox_held"] == 0


async def test_a_failure_in_one_half_holds_its_key_and_nothing_of_the_other(
    engine: AsyncEngine,
) -> None:
    keys = keys_of_buckets(4)
    backlog = await backlog_of(engine, keys)
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    failed = {backlog.keys[id_] for id_ in backlog.air.ids[sent]}
    backlog.air.answer(sent, FAILED)
    await backlog.answer_until(step)
    before = len(backlog.air.requests)
    for _ in range(8):
        await backlog.answer_until(asyncio.create_task(backlog.courier.step()))
    assert failed.isdisjoint(backlog.keys[id_] for ids in backlog.air.ids[before:] for id_ in ids)
    left = await counts(engine)
    assert left["outbox_held"] == len(failed)
    async with engine.connect() as connection:
        waiting = set((await connection.scalars(select(outbox.c.aggregateid))).all())
    assert waiting <= failed


async def test_a_half_that_finds_no_resting_key_of_its_own_forgets_none_of_the_other(
    engine: AsyncEngine,
) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    async with engine.begin() as connection:
        row = {"bucket": min(backlog.buckets(sent)), "aggregateid": "resting", "attempts": 1}
        times = {"head_id": compose(1, 1), "next_at": FakeClock().now() + timedelta(days=9)}
        others = {"destination": "comments", "last_error": ""}
        await connection.execute(outbox_held.insert().values(**row, **times, **others))
    backlog.courier._fetcher.keys_may_rest = True
    backlog.air.answer(sent + 1)
    await backlog.air.until(sent + 3)
    assert backlog.courier._fetcher.keys_may_rest
    await backlog.answer_until(step)


@pytest.mark.databases("postgresql")
async def test_a_message_of_an_earlier_number_that_is_committed_late_leaves_without_a_sweep(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    keys = keys_of_buckets(4)
    backlog = await backlog_of(engine, keys, clock=clock, sweep=3600.0)
    async with engine.connect() as late:
        (first,) = await put(late, message(keys[0] + "-other"))
        await backlog.add(*keys * 6)
        while len(backlog.keys) > sum(len(ids) for ids in backlog.air.ids):
            clock.advance(1.5)  # the mark moves as far as it may
            await backlog.answer_until(asyncio.create_task(backlog.courier.step()))
        await late.commit()
    clock.advance(1.5)
    await backlog.drain()
    assert backlog.air.ids[-1] == [first]


async def test_a_half_that_fails_ends_with_the_other_and_loses_no_message(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    write = Settler.write
    calls: list[int] = []

    async def fail_once(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionResetError("the database is away")
        return await write(*given)

    monkeypatch.setattr(Settler, "write", fail_once)
    step = await backlog.both_in_the_air()
    await backlog.answer_until(step)
    with pytest.raises(ConnectionResetError):
        step.result()
    assert len(calls) > 1
    assert not backlog.courier._in_rounds
    await backlog.drain()
    assert {id_ for ids in backlog.air.ids for id_ in ids} == set(backlog.keys)


async def test_a_surplus_bucket_is_kept_while_a_round_has_it(engine: AsyncEngine) -> None:
    backlog = await backlog_of(engine, keys_of_buckets(4))
    sent = len(backlog.air.requests)
    step = await backlog.both_in_the_air()
    slow, quick = backlog.buckets(sent), backlog.buckets(sent + 1)
    await backlog.courier.give_up([*slow, *quick])
    backlog.air.answer(sent + 1)

    async def given_back() -> bool:
        return quick.isdisjoint(backlog.courier.leases.epochs)

    await until(given_back, what="the buckets of the round that ended are given back")
    assert slow <= backlog.courier.leases.epochs.keys()
    await backlog.answer_until(step)
    await backlog.courier.run_once()
    assert set(BUCKETS) - backlog.courier.leases.epochs.keys() == slow | quick
