"""Who holds a lease believes in it for less long than the database does, and who claims one does
not overlook it (P6, P7)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.engine.shards import Shards
from orchestrator.store.sharding import LEASED_AS, SHARDS
from outbox.clock import SystemClock
from outbox.coordination.lease_store import LeaseStore
from outbox.coordination.progress import Progress
from outbox.lanes import BUCKETS
from outbox.relay.message_store import Store
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.tables import DEFAULT_TABLES, outbox_lease
from outbox.testing import FakeClock
from tests.support.databases.locks import until_it_waits
from tests.support.outbox.relays import Destination, commit, make_relay, message
from tests.support.processes.waiting import BUSY

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
SETTINGS = RelaySettings()
USABLE = SETTINGS.lease - SETTINGS.margin
"""Seconds for which a lease may be used once it was renewed."""
TTL = timedelta(seconds=SETTINGS.lease)


class SlowRenewals:
    """From now on a renewal tells what it did so many seconds after the database did it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
        self.seconds = 0.0
        original = LeaseStore.renew

        async def renew(
            store: LeaseStore, connection: AsyncConnection, owner: str, ttl: timedelta
        ) -> dict[str, dict[int, int]]:
            held = await original(store, connection, owner, ttl)
            clock.advance(self.seconds)
            return held

        monkeypatch.setattr(LeaseStore, "renew", renew)


async def test_a_shards_lease_counts_from_before_it_was_renewed(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    renewals = SlowRenewals(monkeypatch, clock)
    shards = Shards(
        engine,
        name=lambda: "node",
        clock=clock,
        settings=SETTINGS,
        store=LeaseStore(
            DEFAULT_TABLES, postgres=engine.dialect.name == "postgresql", now=clock.now
        ),
        changed=lambda _gained, _lost: None,
        is_dead=lambda _: False,
    )
    renewals.seconds = USABLE - 1.0
    for _ in ("claimed", "renewed"):
        await shards.tend_once()
        assert shards.usable.keys() == set(SHARDS)
        clock.advance(1.0)
        assert shards.usable == {}


async def test_a_buckets_lease_counts_from_before_it_was_renewed(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    renewals = SlowRenewals(monkeypatch, clock)
    destination = Destination()
    relay = make_relay(engine, destination, clock=clock)
    await relay.run_once()
    ids = await commit(engine, message("k"))
    clock.advance(SETTINGS.lease / 3)
    renewals.seconds = USABLE
    await relay.run_once()
    assert destination.ids == []
    renewals.seconds = 0.0
    await relay.run_once()
    assert destination.ids == ids


async def test_buckets_that_are_gained_prolong_no_lease_that_was_held(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    renewals = SlowRenewals(monkeypatch, clock)
    destination = Destination()
    relay = make_relay(engine, destination, clock=clock)
    await relay.run_once()
    bucket, envelope = message("k")
    await commit(engine, (bucket, envelope))
    async with engine.begin() as connection:
        others = outbox_lease.c.bucket != bucket
        await connection.execute(update(outbox_lease).where(others).values(expires_at=LONG_AGO))
    clock.advance(SETTINGS.lease / 3)
    renewals.seconds = USABLE
    await relay.run_once()
    assert destination.ids == []


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("leased_as", "buckets"), [("comments", BUCKETS), (LEASED_AS, SHARDS)], ids=["relay", "shards"]
)
async def test_a_fence_of_the_last_owner_hides_no_bucket_from_a_claim(
    engine: AsyncEngine, leased_as: str, buckets: tuple[int, ...]
) -> None:
    leases = LeaseStore(DEFAULT_TABLES, postgres=True, now=SystemClock().now)
    store = Store(DEFAULT_TABLES, postgres=True, now=SystemClock().now)
    ask: dict[str, Any] = {"most": len(buckets), "ttl": TTL}
    async with engine.begin() as connection:
        await leases.make_leases(connection, leased_as, buckets)
        assert len(await leases.claim(connection, "last", leased_as, **ask)) == len(buckets)
    async with engine.connect() as last, engine.connect() as heir:
        assert await store.fence(last, leased_as, {3: 1}) == {3}
        async with engine.begin() as connection:
            await leases.give_back(connection, "last", leased_as, buckets)
        claim = asyncio.create_task(leases.claim(heir, "heir", leased_as, **ask))
        await until_it_waits(engine, claim)
        await last.commit()
        async with asyncio.timeout(10 * BUSY):
            assert await claim == dict.fromkeys(buckets, 2)
        await heir.rollback()


async def test_leases_that_expired_before_their_renewal_are_counted_as_lost(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    progress = Progress(clock.monotonic)
    relay = Relay(
        engine,
        {"comments": Destination()},
        owner="relay-1",
        clock=clock,
        progress=progress,
        is_dead=lambda _: False,
    )
    await relay.run_once()
    clock.advance(SETTINGS.lease / 2)
    await relay.run_once()
    assert progress.lost_leases == 0
    async with engine.begin() as connection:
        # Its process stood still, and others took two of them meanwhile.
        two = outbox_lease.c.bucket.in_([3, 4])
        await connection.execute(
            update(outbox_lease).where(two).values(owner="other", epoch=outbox_lease.c.epoch + 1)
        )
    clock.advance(SETTINGS.lease / 2)
    await relay.run_once()
    assert progress.lost_leases == 2
    await relay.aclose()
    await relay.run_once()
    assert progress.lost_leases == 2
