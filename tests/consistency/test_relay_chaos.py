"""Four relays of one service are killed, stopped past their leases and restarted at random, while
eight writers commit: over HTTP, and through NATS, where the receivers die as well. The long tests
go through brokers that are killed and started again meanwhile.

Each key's numbers must take effect once and in their order, and no delivery may begin on a lease
that is over. A few seconds of it in every run of the tests; `make soak` has at least a minute. The
seed (SAGABOX_SOAK_SEED) chooses faults and victims.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.support.brokers.servers import SERVERS, Server, a_server
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.numbers.crowd import (
    DIES,
    DIES_AT,
    HANGS,
    HANGS_AT,
    RESTARTS,
    WRITERS,
    Crowd,
    crowd,
    seed,
)
from tests.support.numbers.findings import findings_of, report
from tests.support.numbers.numbers import receiver_schema, sender_schema
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.databases("postgresql")]
_SHORT, _LONG = 8.0, 60.0
_BETWEEN = 10.0
"""Seconds, at most, between a start of a broker and its death."""


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """How messages go."""
    chosen: str = request.param
    return chosen


@pytest.fixture
async def broker(way: str) -> AsyncIterator[Server | None]:
    """The broker, if there is one."""
    found = re.match("through ([A-Za-z]+)", way)
    if found is None:
        yield None
        return
    async with a_server(found[1]) as server:
        yield server


@pytest.fixture
async def all_(
    broker: Server | None,
    database_factory: DatabaseFactory,
    make_engine: MakeEngine,
    tmp_path: Path,
) -> AsyncIterator[Crowd]:
    sending, receiving = database_factory(sender_schema), database_factory(receiver_schema)
    engines = make_engine(sending, pool_size=WRITERS + 2), make_engine(receiving)
    async with crowd(
        (sending, engines[0]),
        (receiving, engines[1]),
        tmp_path,
        broker=None if broker is None else broker.url(),
    ) as found:
        yield found


WAYS = ["over HTTP", "through NATS"]
DYING = [f"through {name}, which dies" for name in SERVERS]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS, indirect=True)
async def test_nothing_is_lost_or_turned_round_while_relays_die_and_hang(
    all_: Crowd, way: str, count: Count
) -> None:
    await _play(all_, way, _SHORT, count)


@pytest.mark.soak
@pytest.mark.parametrize("way", [*WAYS, *DYING], indirect=True)
async def test_nothing_is_lost_or_turned_round_through_minutes_of_faults(
    all_: Crowd,
    way: str,
    broker: Server | None,
    soak_minutes: float,
    count: Count,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = max(_LONG, soak_minutes * 60)
    told = await _play(all_, way, seconds, count, broker if way in DYING else None)
    with capsys.disabled():
        sys.stdout.write(f"\n{told}")
    assert "of which 0 came again" not in told


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["over HTTP"], indirect=True)
async def test_relays_share_the_buckets_fairly_when_one_joins_leaves_dies_or_hangs(
    all_: Crowd, count: Count
) -> None:
    one, *others = all_.relays
    await all_.until_shared(one, *others)
    await one.kill()
    await all_.until_shared(*others)
    await one.start()
    await all_.until_shared(one, *others)
    await one.leave()
    await all_.until_shared(*others)
    await one.start()
    await all_.until_shared(one, *others)
    one.freeze()
    await all_.until_shared(*others)
    one.thaw()
    await all_.until_shared(one, *others)
    count("changes among relays, each with a fair share for all in the end", 6)


async def _play(
    all_: Crowd, way: str, seconds: float, count: Count, dying: Server | None = None
) -> str:
    """Everything goes wrong for so long, then heals, and is as it should be. The report. `dying` is
    a broker that is killed over and over."""
    chosen = seed()
    chance = Random(chosen)
    stop, began = asyncio.Event(), time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITERS):
            tasks.create_task(all_.write(Random(chance.random()), stop))
        troubles = [
            all_.trouble(all_.relays, [HANGS_AT, DIES], Random(chance.random()), seconds),
            all_.trouble(all_.relays, [DIES_AT, RESTARTS, HANGS], Random(chance.random()), seconds),
        ]
        if len(all_.receivers) > 1:
            kinds = [DIES_AT, DIES, RESTARTS]
            troubles.append(all_.trouble(all_.receivers, kinds, Random(chance.random()), seconds))
        if dying is not None:
            troubles.append(_deaths(all_, dying, Random(chance.random()), seconds))
        await asyncio.gather(*troubles)
        shared = await all_.until_shared(*all_.relays)
        stop.set()

    async def is_empty() -> bool:
        return not await all_.waiting()

    with contextlib.suppress(AssertionError):
        await until(is_empty, 60, "every message has left")

    async def is_all_there() -> bool:
        return not (await findings_of(all_)).lost

    with contextlib.suppress(AssertionError):  # the report says what is missing
        await until(is_all_there, 60, "every number has taken effect")
    found = await findings_of(all_)
    told = report(way, chosen, time.monotonic() - began, all_, found)
    waiting = await all_.waiting()
    told += f"  still in the outbox, held or dead: {waiting}\n"
    told += f"  the buckets are shared fairly {shared:.1f} s after the last fault\n"
    sys.stdout.write(told)
    assert not any(found.wrong.values()), told
    assert waiting == 0, told
    assert found.numbers > 0
    count(f"messages {way} while relays died and hung", found.numbers)
    count(f"of them came again {way}, and were absorbed", found.came_again)
    count(f"faults {way}", all_.faults.total())
    return told


async def _deaths(all_: Crowd, broker: Server, chance: Random, seconds: float) -> None:
    """Kill it and start it again, over and over, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(_BETWEEN * chance.random())  # it dies at any moment
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(chance.random())  # for so long it is away
        await asyncio.to_thread(broker.start)
        all_.faults["the broker is killed"] += 1
