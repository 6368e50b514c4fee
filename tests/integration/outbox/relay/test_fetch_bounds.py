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
from outbox.relay.condition import Condition
from outbox.relay.courier import Courier
from outbox.relay.message_store import Fetched
from outbox.relay.ports import RelayPorts
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import ENVELOPE_OVERHEAD
from outbox.tables import DEFAULT_TABLES, outbox_lease
from outbox.testing import FakeClock
from outbox.wire.envelope import Envelope
from tests.support.outbox.couriers import keys_of_buckets
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
            **{
                "shares": dict.fromkeys(floors, 1000),
                "most": 1000,
                "most_bytes": 1 << 24,
                **bounds,
            },
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


async def test_a_fetch_that_ended_early_saw_the_end_of_the_buckets_before_its_last_message(
    engine: AsyncEngine,
) -> None:
    await commit(engine, *messages(4))
    buckets = dict.fromkeys(BUCKETS, 0)
    cut = await fetch(engine, buckets, most_bytes=2 * SIZE)
    assert cut.exhausted == set(range(cut.messages[-1].bucket))
    assert (await fetch(engine, buckets, most=2)).exhausted == cut.exhausted
    # It fits to the byte: there may be more.
    to_the_byte = await fetch(engine, buckets, most_bytes=4 * SIZE)
    assert to_the_byte.exhausted == set(range(to_the_byte.messages[-1].bucket))
    assert (await fetch(engine, buckets, most_bytes=4 * SIZE + 1)).exhausted == set(BUCKETS)


async def test_a_fetch_takes_no_more_of_a_bucket_than_its_share(engine: AsyncEngine) -> None:
    bucket, _ = message("k")
    first, second, _third = await commit(engine, *(message("k") for _ in range(3)))
    floors = dict.fromkeys(BUCKETS, 0)
    cut = await fetch(engine, floors, shares={**floors, bucket: 2})
    assert [it.envelope.id for it in cut.messages] == [first, second]
    assert bucket not in cut.exhausted
    assert bucket in (await fetch(engine, floors, shares=dict.fromkeys(BUCKETS, 4))).exhausted


async def test_an_outbox_is_emptied_in_about_the_order_in_which_it_was_filled(
    engine: AsyncEngine,
) -> None:
    """So that what lies in one page of the table is deleted by one transaction."""
    destination = Destination()
    courier = await make_courier(engine, destination, RelaySettings(fetch=160))
    ids = await commit(engine, *map(message, keys_of_buckets(16) * 40))
    places = {id_: place for place, id_ in enumerate(ids)}
    await courier.run_once()  # and learns which buckets have many
    for _ in range(2):
        sent = len(destination.ids)
        await courier.run_once()
        reached = [places[id_] for id_ in destination.ids[sent:]]
        assert len(reached) >= 100
        assert max(reached) - min(reached) < 320
    while await courier.run_once():
        pass
    assert sorted(destination.ids) == sorted(ids)


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
        Condition("comments", clock=FakeClock(), batch=100, chance=lambda: 0.0),
        name=lambda: "node",
        clock=FakeClock(),
        settings=settings,
        ports=RelayPorts.of(engine, DEFAULT_TABLES, FakeClock()),
        chance=lambda: 0.0,
    )
    courier.lease(Leases(dict.fromkeys(BUCKETS, 1), math.inf))
    return courier
