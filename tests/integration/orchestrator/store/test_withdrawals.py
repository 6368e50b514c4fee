"""A command that is withdrawn while its key rests: what waits behind it is sent, and in its order
(P4, P6)."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.store.sharding import shard_of_bucket
from outbox.retry import RetryPolicy
from outbox.testing import FakeClock
from tests.support.orchestrator.nodes import make_ports
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

LONG = RetryPolicy(first=600.0, factor=1.0, ceiling=600.0, jitter=0.0, attempts=9)


async def withdraw(engine: AsyncEngine, clock: FakeClock, id_: str) -> None:
    bucket, _ = message("k")
    async with engine.begin() as connection:
        await make_ports(engine, clock).runs.withdraw(connection, [id_], [shard_of_bucket(bucket)])


@pytest.mark.parametrize("park_after", [60.0, 3600.0], ids=["parked", "where it was"])
async def test_what_waits_behind_a_withdrawn_command_leaves_in_its_order(
    engine: AsyncEngine, park_after: float
) -> None:
    clock, replies = FakeClock(), {"k": FAILED}
    destination = Destination(answer=lambda it: replies.get(it.key, DONE))
    settings: dict[str, Any] = {"sweep": 3600.0, "park_after": park_after}
    relay = make_relay(engine, destination, clock=clock, retry=LONG, **settings)
    first, second = await commit(engine, message("k"), message("k"))
    await relay.run_once()
    (third,) = await commit(engine, message("k"))
    for _ in range(4):  # the floors of PostgreSQL rise over what waits
        clock.advance(1.5)
        await drain(relay)
    replies.clear()
    await withdraw(engine, clock, first)
    assert await drain(relay) == 2
    assert destination.ids == [first, second, third]
    found = await counts(engine)
    assert set(found.values()) == {0}, found


async def test_a_key_behind_which_nothing_waits_is_free_at_once(engine: AsyncEngine) -> None:
    clock, destination = FakeClock(), Destination(answer=lambda _: FAILED)
    (only,) = await commit(engine, message("k"))
    await make_relay(engine, destination, clock=clock, retry=LONG).run_once()
    await withdraw(engine, clock, only)
    found = await counts(engine)
    assert set(found.values()) == {0}, found
