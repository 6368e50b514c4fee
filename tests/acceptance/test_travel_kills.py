"""`examples/travel` while each of its processes is killed: every trip is booked or undone."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.support.blog.agreement import until_all_is_sent
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count
from tests.support.travel.books import facts, problems
from tests.support.travel.running import NAMES, RunningTravel, running_travel

_ROOM, _SEAT = 90_00, 120_00
_CARDS = ("1234", "1234", "1234", "5678")  # the last one bears too little
_BURST = 4
_LATER = 0.05  # seconds by which each kill may come later than the one before

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def travel(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningTravel]:
    async with running_travel(database_factory, tmp_path) as running:
        yield running


async def test_each_trip_is_booked_or_undone_whichever_process_is_killed_whenever(
    travel: RunningTravel, count: Count
) -> None:
    seed = Random().randrange(10_000)
    sys.stdout.write(f"the seed is {seed}\n")  # pytest shows it on failure
    chance = Random(seed)
    await travel.start(*NAMES)
    # Some trips find the hotel overbooked when all is paid, and are refunded.
    await travel.put("hotel", "/rooms/double", {"price": _ROOM, "number": 12, "spare": 6})
    await travel.put("flight", "/flights/SB7", {"price": _SEAT, "seats": 100})
    await travel.put("payment", "/cards/1234", {"limit": 100_000_00})
    await travel.put("payment", "/cards/5678", {"limit": 100_00})
    victims = [*chance.sample(NAMES, len(NAMES)), *chance.sample(NAMES, len(NAMES))]
    booked: list[str] = []
    killed_under_way = 0

    def under_way() -> int:
        return sum(it.told != it.run for it in facts(travel.databases).values())

    for number, victim in enumerate(victims):
        cards = chance.sample(_CARDS, _BURST)
        burst = [
            asyncio.create_task(travel.book(room="double", flight="SB7", card=card))
            for card in cards
        ]
        await until(under_way, what="the hotel has taken a trip")
        # Any moment will do: what is asserted holds at each.
        await asyncio.sleep(chance.uniform(0, number * _LATER))
        await travel.kill(victim)
        killed_under_way += under_way()
        await travel.start(victim)
        booked += await asyncio.gather(*burst)

    def all_have_ended() -> bool:
        return all(it.told != "not ended" for it in facts(travel.databases).values())

    await until(all_have_ended, 60, "the hotel was told of the end of each trip")
    await until_all_is_sent(travel.databases)
    assert problems(travel.databases, _ROOM + _SEAT) == []
    found = facts(travel.databases)
    assert set(booked) <= set(found)
    assert killed_under_way > 0, "no trip was under way when a process was killed"
    assert Counter(it.run for it in found.values()).keys() == {"COMPLETED", "COMPENSATED"}
    assert any(it.is_refunded for it in found.values()), "no trip was refunded"
    count("trips under way when a process was killed", killed_under_way)
