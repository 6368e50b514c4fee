"""Relays and nodes that were given one name: each of them holds leases of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.clock import SystemClock
from outbox.tables import outbox_lease
from outbox.testing import FakeClock
from tests.support.outbox.relays import Destination, commit, drain, make_relay, message


async def _holders(engine: AsyncEngine) -> list[int]:
    """How many buckets each holder has."""
    async with engine.connect() as connection:
        owners = list((await connection.scalars(select(outbox_lease.c.owner))).all())
    return [owners.count(it) for it in sorted(set(owners), key=str)]


async def test_relays_with_one_label_share_the_buckets_and_keep_the_order_of_each_key(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock(SystemClock().now())
    destination = Destination()
    first = make_relay(engine, destination, owner="orders", clock=clock, batch=1)
    second = make_relay(engine, destination, owner="orders", clock=clock, batch=1)
    for _ in range(4):
        await first.run_once()
        await second.run_once()
        clock.advance(4.0)
    assert await _holders(engine) == [16, 16]
    ids = await commit(engine, *(message(f"k{n % 10}") for n in range(60)))
    shares = await asyncio.gather(drain(first), drain(second))
    assert min(shares) > 0
    assert sorted(destination.ids) == sorted(ids), "each once"
    assert all(it == sorted(it) for it in destination.by_key().values())


async def test_a_relay_that_begins_again_under_its_label_waits_for_the_leases_of_the_one_before(
    engine: AsyncEngine,
) -> None:
    await make_relay(engine, Destination(), owner="orders").run_once()
    await commit(engine, message("k"))
    destination = Destination()
    assert await drain(make_relay(engine, destination, owner="orders")) == 0
    assert destination.ids == []


async def test_a_label_may_be_longer_than_the_tables_have_room_for(engine: AsyncEngine) -> None:
    destination = Destination()
    ids = await commit(engine, message("k"))
    await drain(make_relay(engine, destination, owner="orders of the whole world " * 20))
    assert destination.ids == ids


_FORKED = """
    import asyncio, os, sys
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool
    from outbox import sqlite
    from outbox.tables import metadata, outbox_relay
    from tests.support.outbox.relays import Destination, commit, make_relay, message

    engine = create_async_engine("sqlite+aiosqlite:///" + sys.argv[1], poolclass=NullPool)
    sqlite.configure(engine)
    destination = Destination()
    relay = make_relay(engine, destination, owner="orders")

    async def prepare():
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await relay.run_once()
        await commit(engine, message("k"))

    async def tell(who):
        await relay.run_once()
        async with engine.connect() as connection:
            known = len(set(await connection.scalars(select(outbox_relay.c.owner))))
        print(who, "sent", len(destination.ids), "of", known, "relays", flush=True)

    asyncio.run(prepare())
    child = os.fork()
    if child == 0:
        asyncio.run(tell("child"))
        os._exit(0)
    os.waitpid(child, 0)
    asyncio.run(tell("parent"))
"""


def test_a_relay_that_was_forked_off_takes_another_name_and_leaves_the_leases_of_the_first(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", dedent(_FORKED), str(tmp_path / "orders.sqlite")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["child sent 0 of 2 relays", "parent sent 1 of 2 relays"], (
        done.stderr
    )
