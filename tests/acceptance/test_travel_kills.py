"""`examples/travel` while each of its processes is killed: every trip is booked or undone, and no
card is charged twice."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.support.blog.agreement import until_all_is_sent
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.preparing import without_keys
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count
from tests.support.travel.dying import ROOMS, AtPoint, Death, OfProvider, die
from tests.support.travel.running import NAMES, PRICE, RunningTravel, running_travel

_CARDS = ("1234", "1234", "1234", "5678")  # the last one bears too little
_BURST = 4
_LATER = 0.05  # seconds by which each kill may come later than the one before

DEATHS: dict[str, list[Death]] = {
    "payment": [
        AtPoint("outside: after before, before the call"),
        AtPoint("outside: after the call, before its result"),
        AtPoint("outside: after its result, before the reply"),
        # In a trip with a suite the second one is the refund.
        AtPoint("outside: after the call, before its result", 2),
    ],
    "flight": [
        AtPoint("outside: after the call, before its result"),
        AtPoint("inbox: after commit, before reply"),
        AtPoint("inbox: completed, before commit"),
        AtPoint("outbox: after commit, before bell"),
    ],
    "provider": [OfProvider("charges"), OfProvider("orders"), OfProvider("refunds")],
}

pytestmark = pytest.mark.timeout(600)  # for a machine that has much else to do


@pytest.fixture
async def travel(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningTravel]:
    async with running_travel(database_factory, tmp_path) as running:
        await running.start(*NAMES)
        yield running


async def test_each_trip_is_booked_or_undone_whichever_process_is_killed_whenever(
    travel: RunningTravel, count: Count
) -> None:
    seed = Random().randrange(10_000)
    sys.stdout.write(f"the seed is {seed}\n")  # pytest shows it on failure
    chance = Random(seed)
    await travel.open(rooms=100)
    victims = [*chance.sample(NAMES, len(NAMES)), *chance.sample(NAMES, len(NAMES))]
    booked: list[str] = []
    killed_under_way = 0

    def under_way() -> int:
        return sum(it.told != it.run for it in travel.books.facts().values())

    def is_taken(burst: asyncio.Future[list[str]]) -> bool:
        # All may be over already, where it is this process that stood still.
        return under_way() > 0 or burst.done()

    for number, victim in enumerate(victims):
        cards = chance.sample(_CARDS, _BURST)
        burst = asyncio.gather(*(travel.book(it, room=chance.choice(ROOMS)) for it in cards))
        await until(partial(is_taken, burst), what="the hotel has taken a trip")
        # Any moment will do: what is asserted holds at each.
        await asyncio.sleep(chance.uniform(0, number * _LATER))
        await travel.kill(victim)
        killed_under_way += under_way()
        await travel.start(victim)
        booked += await burst

    await travel.until_settled()
    await until_all_is_sent(travel.databases)
    assert travel.books.problems(PRICE) == []
    found = travel.books.facts()
    assert set(booked) <= set(found)
    assert killed_under_way > 0, "no trip was under way when a process was killed"
    assert Counter(it.run for it in found.values()).keys() == {"COMPLETED", "COMPENSATED"}
    assert any(it.is_refunded for it in found.values()), "no trip was refunded"
    count("trips under way when a process was killed", killed_under_way)


@pytest.mark.databases("sqlite")
async def test_no_card_is_charged_twice_whichever_new_state_a_process_dies_in(
    travel: RunningTravel, count: Count
) -> None:
    await travel.open(rooms=100)
    await asyncio.gather(*(die(travel, victim, deaths) for victim, deaths in DEATHS.items()))
    await travel.until_settled()
    await until_all_is_sent(travel.databases)
    assert travel.books.problems(PRICE) == []
    found = travel.books.facts()
    assert Counter(it.run for it in found.values()).keys() == {"COMPLETED", "COMPENSATED"}
    assert any(it.is_refunded for it in found.values()), "no trip was refunded"
    count("deaths of processes in and around calls to the outside", sum(map(len, DEATHS.values())))


@pytest.mark.databases("sqlite")
async def test_a_provider_without_keys_is_asked_once_and_a_run_that_cannot_know_says_so(
    travel: RunningTravel,
) -> None:
    await travel.open(rooms=100)
    await travel.kill("payment")
    await travel.start("payment", extra=without_keys())
    for kind in ("charges", "refunds"):
        await travel.let(kind, keyed=False)
    await travel.let("charges", cut_after=1)
    turned_back = await travel.book()
    await travel.until_settled()
    await travel.let("refunds", cut_after=1)
    stuck = await travel.book(room="suite")
    await travel.until_settled()
    assert travel.books.problems(PRICE) == []
    found = travel.books.facts()
    assert (found[turned_back].run, found[turned_back].refunds) == ("COMPENSATED", [1])
    assert (found[stuck].run, found[stuck].refunds) == ("STUCK", [1])
    assert "the provider is not said to honour a key" in found[stuck].stuck
    assert {it["times"] for it in travel.books.asked()} == {1}
