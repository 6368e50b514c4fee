"""`examples/travel` through hundreds of trips with random faults, and deaths at every crash point
of its calls to the outside: `make soak MINUTES=n TRIPS=n`.

No card is charged twice. A trip that is COMPLETED is charged once, one that is COMPENSATED not at
all or refunded once, and one that is STUCK says why. The seed is SAGABOX_SOAK_SEED; the report is
printed, and added to the file that SAGABOX_SOAK_REPORT names.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from outbox.clock import SystemClock
from tests.support.blog.agreement import until_all_is_sent
from tests.support.fixtures import DatabaseFactory
from tests.support.repository.reporting import Count
from tests.support.travel.dying import EVERY_DEATH, die
from tests.support.travel.faults import Faults
from tests.support.travel.running import NAMES, PRICE, RunningTravel, running_travel

_SHARE = 4  # of the minutes, one part in so many, unless the trips take longer
_ROUND = 60  # trips

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture
async def travel(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningTravel]:
    async with running_travel(database_factory, tmp_path) as running:
        await running.start(*NAMES)
        await running.open(rooms=10_000)
        yield running


async def test_no_card_is_charged_twice_through_hundreds_of_trips_with_random_faults(
    travel: RunningTravel, soak_minutes: float, count: Count, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("SAGABOX_SOAK_SEED") or SystemClock().now().timestamp())
    trips = int(os.environ.get("SAGABOX_SOAK_TRIPS") or 500)
    faults, started, violations = Faults(travel, Random(seed)), time.monotonic(), list[str]()
    async with faults.kept():
        while len(travel.books.facts()) < trips or (
            time.monotonic() - started < soak_minutes * 60 / _SHARE
        ):
            await faults.play(_ROUND)
            await faults.heal()
            await travel.until_settled(150)
            await until_all_is_sent(travel.databases)
            violations = travel.books.problems(PRICE)
            if violations:
                break
    kind = travel.databases["hotel"].kind
    text = f"trips on {kind}, seed {seed}\n{faults.text()}\nviolations: {violations}\n"
    _report(text)
    with capsys.disabled():
        sys.stdout.write(f"\n{text}")
    assert violations == []
    found = travel.books.facts()
    assert {"COMPLETED", "COMPENSATED"} <= {it.run for it in found.values()}
    count("trips of real processes with random faults", len(found))


async def test_no_card_is_charged_twice_whichever_crash_point_a_process_dies_at(
    travel: RunningTravel, count: Count
) -> None:
    await asyncio.gather(*(die(travel, victim, deaths) for victim, deaths in EVERY_DEATH.items()))
    await travel.until_settled(150)
    await until_all_is_sent(travel.databases)
    assert travel.books.problems(PRICE) == []
    deaths = sum(map(len, EVERY_DEATH.values()))
    count("deaths of processes in and around calls to the outside", deaths)


def _report(text: str) -> None:
    if path := os.environ.get("SAGABOX_SOAK_REPORT"):
        with Path(path).open("a", encoding="utf-8") as report:
            report.write(text)
