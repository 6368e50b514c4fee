"""A courier, perhaps one that is fed from memory, which holds every bucket for ever."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination.leases import Leases
from outbox.lanes import BUCKETS
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.memory_queue import MemoryQueue
from outbox.relay.ports import RelayPorts, Settlement
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.tables import DEFAULT_TABLES, outbox_lease
from outbox.testing import FakeClock
from outbox.transports.base import Transport
from tests.support.outbox.relays import message
from tests.support.processes.waiting import RARELY

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
ENDURING: Any = {"delivery_timeout": RARELY, "margin": 1.5 * RARELY, "lease": 3 * RARELY}
"""Settings of a relay that waits for an answer as long as any test does, and keeps its leases."""
LONG = RetryPolicy(first=600.0, factor=1.0, ceiling=600.0, jitter=0.0, attempts=9)


async def make_courier(
    engine: AsyncEngine,
    destination: Transport,
    memory: MemoryQueue | None,
    settlement: Settlement | None = None,
    *,
    clock: FakeClock | None = None,
    condition: Condition | None = None,
    **settings: Any,
) -> Courier:
    """A courier to `comments`, without any jitter."""
    clock = clock or FakeClock()
    async with engine.begin() as connection:
        rows = [
            {"destination": "comments", "bucket": it, "epoch": 1, "expires_at": LONG_AGO}
            for it in BUCKETS
        ]
        await connection.execute(insert(outbox_lease), rows)
    courier = Courier(
        engine,
        "comments",
        destination,
        condition or Condition("comments", clock=clock, batch=100, chance=lambda: 0.0),
        name=lambda: "node",
        clock=clock,
        settings=RelaySettings(**{"retry": LONG, "width": 1, **ENDURING, **settings}),
        ports=RelayPorts.of(engine, DEFAULT_TABLES, clock),
        settlement=settlement,
        memory=memory,
        chance=lambda: 0.0,
    )
    courier.lease(Leases(dict.fromkeys(BUCKETS, 1), math.inf))
    return courier


def keys_of_buckets(count: int) -> list[str]:
    """So many keys, each of another bucket, the first bucket first."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        bucket, _ = message(f"k{number}")
        found.setdefault(bucket, f"k{number}")
        number += 1
    return [found[bucket] for bucket in sorted(found)]
