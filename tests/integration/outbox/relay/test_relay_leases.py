"""Several relays on one outbox: who may send, and what a relay that lost its lease may still do."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.coordination.lease_store import LeaseStore
from outbox.relay.message_store import Store
from outbox.relay.relay import Relay
from outbox.replies import Outcome, Reply
from outbox.tables import DEFAULT_TABLES, outbox_dead, outbox_held, outbox_lease, outbox_relay
from outbox.testing import FakeClock
from tests.support.outbox.couriers import ENDURING
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
)
from tests.support.processes.waiting import BUSY

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


async def _owners(engine: AsyncEngine) -> dict[str | None, int]:
    async with engine.connect() as connection:
        owners = (await connection.scalars(select(outbox_lease.c.owner))).all()
    return Counter(None if it is None else it.partition("@")[0] for it in owners)


async def _expire(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(outbox_lease).values(expires_at=LONG_AGO))


async def test_two_relays_come_to_share_the_buckets_and_send_everything_once(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock(SystemClock().now())
    destination = Destination()
    first = make_relay(engine, destination, owner="first", clock=clock)
    second = make_relay(engine, destination, owner="second", clock=clock)
    for _ in range(4):
        await first.run_once()
        await second.run_once()
        clock.advance(4.0)
    assert await _owners(engine) == {"first": 16, "second": 16}
    ids = await commit(engine, *(message(f"k{n}") for n in range(100)))
    shares = await asyncio.gather(drain(first), drain(second))
    assert min(shares) > 10
    assert sorted(destination.ids) == sorted(ids)


async def test_a_renewal_under_way_brings_back_no_bucket_that_is_given_back_meanwhile(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(SystemClock().now())
    first = make_relay(engine, Destination(), owner="first", clock=clock)
    second = make_relay(engine, Destination(), owner="second", clock=clock)
    giving: list[asyncio.Task[int]] = []
    renew = LeaseStore.renew

    async def renew_while_giving(store: LeaseStore, *rest: Any) -> dict[str, dict[int, int]]:
        held = await renew(store, *rest)
        giving.append(asyncio.create_task(first._couriers["comments"].run_once()))
        await asyncio.sleep(0)  # the courier lets them go, and waits for the database
        return held

    for relay in (first, second, first, second, first, second):
        await relay._keeper.tend()  # and the first has too many, for the second time at the end
        clock.advance(2.0)
    with monkeypatch.context() as patch:
        patch.setattr(LeaseStore, "renew", renew_while_giving)
        await first._keeper.tend()
    await asyncio.gather(*giving)
    await second._keeper.tend()
    held = [set(it._couriers["comments"].leases.epochs) for it in (first, second)]
    assert held[1]
    assert not held[0] & held[1]


async def test_the_buckets_of_a_dead_relay_are_taken_over_with_a_new_epoch(
    engine: AsyncEngine,
) -> None:
    await make_relay(engine, Destination(), owner="dead").run_once()
    await _expire(engine)
    ids = await commit(engine, message("k"))
    destination = Destination()
    await drain(make_relay(engine, destination, owner="heir"))
    assert destination.ids == ids
    async with engine.connect() as connection:
        epochs = set((await connection.scalars(select(outbox_lease.c.epoch))).all())
    assert epochs == {2}


async def test_an_expired_lease_that_its_owner_takes_again_has_a_new_epoch(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock(SystemClock().now())
    relay = make_relay(engine, Destination(), clock=clock)
    await relay.run_once()
    await _expire(engine)
    clock.advance(4.0)
    await relay.run_once()
    async with engine.connect() as connection:
        epochs = set((await connection.scalars(select(outbox_lease.c.epoch))).all())
    assert epochs == {2}


async def test_no_relay_waits_for_the_leases_of_a_relay_that_is_known_to_be_dead(
    engine: AsyncEngine,
) -> None:
    await make_relay(engine, Destination(), owner="dead").run_once()
    ids = await commit(engine, message("k"))
    destination = Destination()
    heir = make_relay(
        engine, destination, owner="heir", is_dead=lambda name: name.startswith("dead@")
    )
    await drain(heir)
    assert destination.ids == ids


async def test_a_relay_sends_nothing_while_another_holds_the_buckets(engine: AsyncEngine) -> None:
    await make_relay(engine, Destination(), owner="holder").run_once()
    await commit(engine, message("k"))
    late = Destination()
    assert await drain(make_relay(engine, late, owner="late")) == 0
    assert late.requests == []


async def test_a_relay_whose_lease_has_run_out_begins_no_delivery(engine: AsyncEngine) -> None:
    clock = FakeClock(SystemClock().now())
    destination = Destination()

    def stop_the_process(_: object) -> None:
        clock.advance(60.0)  # as a SIGSTOP would, between two requests

    destination.refuse = stop_the_process
    await commit(engine, message("k"), message("k"))
    await make_relay(engine, destination, clock=clock, batch=1).run_once()
    assert len(destination.requests) == 1


def zombie_of(engine: AsyncEngine, destination: Destination) -> Relay:
    """One that waits for the answer as long as the destination's gate is closed."""
    return make_relay(engine, destination, owner="zombie", **ENDURING)


@pytest.mark.parametrize("reply", [FAILED, DONE], ids=["a hold", "a deletion"])
async def test_a_zombie_writes_nothing_but_the_deletion_of_what_was_confirmed(
    engine: AsyncEngine, reply: Reply
) -> None:
    await commit(engine, message("k"))
    destination = Destination(gate=asyncio.Event(), answer=lambda _: reply)
    zombie = asyncio.create_task(zombie_of(engine, destination).run_once())
    async with asyncio.timeout(10 * BUSY):
        await destination.entered.wait()
    await _expire(engine)
    await make_relay(engine, Destination(answer=lambda _: FAILED), owner="heir").run_once()
    async with engine.begin() as connection:
        await connection.execute(outbox_held.delete())  # tell the heir's hold from the zombie's
    assert destination.gate is not None
    destination.gate.set()
    await zombie
    found = await counts(engine)
    assert found["outbox_held"] == 0
    assert found["outbox"] == (0 if reply is DONE else 1)


async def test_a_zombie_buries_nothing(engine: AsyncEngine) -> None:
    await commit(engine, message("k"))
    rejected = Reply(Outcome.REJECTED, code="invalid")
    destination = Destination(gate=asyncio.Event(), answer=lambda _: rejected)
    zombie = asyncio.create_task(zombie_of(engine, destination).run_once())
    async with asyncio.timeout(10 * BUSY):
        await destination.entered.wait()
    async with engine.begin() as connection:
        await connection.execute(update(outbox_lease).values(epoch=outbox_lease.c.epoch + 1))
    assert destination.gate is not None
    destination.gate.set()
    await zombie
    async with engine.connect() as connection:
        assert (await connection.execute(select(outbox_dead))).all() == []
    assert (await counts(engine))["outbox"] == 1


@pytest.mark.databases("postgresql")
async def test_a_fence_lets_a_renewal_pass_and_makes_a_takeover_wait(
    engine: AsyncEngine,
) -> None:
    await make_relay(engine, Destination(), owner="owner").run_once()
    store = Store(DEFAULT_TABLES, postgres=True, now=SystemClock().now)
    leases = LeaseStore(DEFAULT_TABLES, postgres=True, now=SystemClock().now)
    async with engine.connect() as fenced, engine.connect() as renewal, engine.connect() as heir:
        assert await store.fence(fenced, "comments", {3: 1}) == {3}
        (name,) = await leases.owners(renewal)
        assert 3 in (await leases.renew(renewal, name, timedelta(seconds=10)))["comments"]
        await renewal.commit()
        takeover = asyncio.create_task(
            heir.execute(
                update(outbox_lease)
                .where(outbox_lease.c.bucket == 3)
                .values(epoch=outbox_lease.c.epoch + 1)
            )
        )
        done, _ = await asyncio.wait({takeover}, timeout=0.3)
        assert not done
        await fenced.commit()
        await asyncio.wait_for(takeover, 10 * BUSY)
        await heir.commit()
    async with engine.connect() as connection:
        assert await store.fence(connection, "comments", {3: 1}) == frozenset()


@pytest.mark.databases("postgresql")
async def test_two_relays_that_come_back_together_do_not_wait_for_each_other(
    engine: AsyncEngine,
) -> None:
    """After an outage both have expired, and each finds the other's row among what is over."""
    leases = LeaseStore(DEFAULT_TABLES, postgres=True, now=SystemClock().now)
    async with engine.begin() as connection:
        for owner in ("one", "two", "dead"):
            await leases.announce(connection, owner, ["comments"], timedelta(seconds=60))
        await connection.execute(update(outbox_relay).values(expires_at=LONG_AGO))
    ttl = timedelta(seconds=10)
    async with engine.connect() as one, engine.connect() as two, asyncio.timeout(30):
        # As far as their own rows, so that each holds one that the other would delete.
        for connection, owner in ((one, "one"), (two, "two")):
            await connection.execute(
                update(outbox_relay)
                .where(outbox_relay.c.owner == owner)
                .values(expires_at=SystemClock().now() + ttl)
            )
        await leases.announce(one, "one", ["comments"], ttl)
        await leases.announce(two, "two", ["comments"], ttl)
        await one.commit()
        await two.commit()
    async with engine.connect() as connection:
        left = await connection.scalars(select(outbox_relay.c.owner))
        assert sorted(left) == ["one", "two"]
