"""How much a courier has in memory: a fetch ends at a number of messages, and at one of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination.leases import Leases
from outbox.lanes import BUCKETS
from outbox.relay.courier import Courier
from outbox.relay.message_store import Fetched
from outbox.relay.ports import RelayPorts
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import ENVELOPE_OVERHEAD
from outbox.tables import DEFAULT_TABLES, outbox_lease
from outbox.testing import FakeClock
from outbox.wire.envelope import Envelope
from tests.support.outbox.relays import Destination, commit, message

SIZE = 10_000
"""The bytes of one message as they are reckoned, its attributes included."""


def messages(count: int, size: int = SIZE) -> list[tuple[int, Envelope]]:
    # The letters take three bytes each: bytes are counted, not letters.
    text = ("\N{EURO SIGN}" * size)[: (size - ENVELOPE_OVERHEAD - 2) // 3]
    data = f'"{text}"'.encode()
    data += b" " * (size - ENVELOPE_OVERHEAD - len(data))
    return [message(f"k{number}", data=data) for number in range(count)]


async def fetch(engine: AsyncEngine, floors: dict[int, int], **bounds: Any) -> Fetched:
    store = RelayPorts.of(engine, DEFAULT_TABLES, FakeClock()).messages
    async with engine.connect() as connection:
        return await store.fetch(
            connection,
            "comments",
            floors,
            **{"per_bucket": 1000, "most": 1000, "most_bytes": 1 << 24, **bounds},
        )


@pytest.mark.parametrize(
    ("most_bytes", "found"),
    [(1, 1), (SIZE, 1), (SIZE + 1, 2), (3 * SIZE - 1, 3), (3 * SIZE, 3), (9 * SIZE, 6)],
)
async def test_a_fetch_ends_with_the_message_that_fills_it(
    engine: AsyncEngine, most_bytes: int, found: int
) -> None:
    await commit(engine, *messages(6))
    all_of_it = await fetch(engine, dict.fromkeys(BUCKETS, 0))
    cut = await fetch(engine, dict.fromkeys(BUCKETS, 0), most_bytes=most_bytes)
    assert len(all_of_it.messages) == 6
    assert cut.messages == all_of_it.messages[:found]


async def test_a_fetch_that_ended_early_reached_the_end_of_no_bucket(engine: AsyncEngine) -> None:
    await commit(engine, *messages(4))
    buckets = dict.fromkeys(BUCKETS, 0)
    assert (await fetch(engine, buckets, most_bytes=2 * SIZE)).exhausted == frozenset()
    # It fits to the byte: there may be more.
    assert (await fetch(engine, buckets, most_bytes=4 * SIZE)).exhausted == frozenset()
    assert (await fetch(engine, buckets, most_bytes=4 * SIZE + 1)).exhausted == set(BUCKETS)


async def test_large_messages_after_many_small_ones_are_fetched_in_parts(
    engine: AsyncEngine,
) -> None:
    destination = Destination()
    courier = await make_courier(engine, destination, RelaySettings(fetch_bytes=5 * SIZE))
    await commit(engine, *messages(300, ENVELOPE_OVERHEAD + 10))
    while await courier.run_once():
        pass
    assert len(destination.ids) == 300
    large = await commit(engine, *messages(23))
    rounds = []
    while count := await courier.run_once():
        rounds.append(count)
    assert rounds == [5, 5, 5, 5, 3]
    assert sorted(destination.ids[300:]) == sorted(large)


async def make_courier(
    engine: AsyncEngine, destination: Destination, settings: RelaySettings
) -> Courier:
    async with engine.begin() as connection:
        rows: Sequence[dict[str, Any]] = [
            {
                "destination": "comments",
                "bucket": bucket,
                "epoch": 1,
                "expires_at": FakeClock().now(),
            }
            for bucket in BUCKETS
        ]
        await connection.execute(insert(outbox_lease), rows)
    courier = Courier(
        engine,
        "comments",
        destination,
        name=lambda: "node",
        clock=FakeClock(),
        settings=settings,
        ports=RelayPorts.of(engine, DEFAULT_TABLES, FakeClock()),
        chance=lambda: 0.0,
    )
    courier.lease(Leases(dict.fromkeys(BUCKETS, 1), math.inf))
    return courier
