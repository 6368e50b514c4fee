"""Each process is replaced by one of this version, and later by one of the released version again,
while people use the blog: no caller sees it, and no saga is harmed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from random import Random

import pytest

from tests.support.blog.deleting import Deletions
from tests.support.blog.traffic import Traffic
from tests.support.compatibility.rolling import (
    ORDER,
    assert_each_life_ended_rightly,
    assert_no_saga_was_harmed,
    begun_deletions,
)
from tests.support.compatibility.versions import Version, VersionedBlog
from tests.support.repository.reporting import Count

pytestmark = [
    pytest.mark.databases("postgresql"),
    pytest.mark.slow,
]


class Roll:
    """A blog of so many instances each, all of them of the released version at first."""

    def __init__(self, blog: VersionedBlog, instances: dict[str, int]) -> None:
        self._blog = blog
        self._instances = instances
        self._labels: list[str] = []
        self.held: list[Deletions] = []

    async def begin(self) -> None:
        """Start the released version."""
        names = [name for name in ORDER for _ in range(self._instances[name])]
        self._labels = [
            *await asyncio.gather(*(self._blog.add(it, Version.RELEASED) for it in names))
        ]

    async def go(self, version: Version, order: Sequence[str]) -> None:
        """Replace the processes one by one. Deletions that were begun before are under way until
        the first orchestrator of the new version takes part."""
        self.held.append(await begun_deletions(self._blog, 6))
        begun = {*self.held[-1].asked}
        for name in order:
            for old in [it for it in self._labels if self._blog.name_of(it) == name]:
                new = await self._blog.add(name, version)
                if name == "orchestrator":
                    await self._blog.until_it_has_shards(new)
                    assert begun <= self._blog.under_way() or not self._blog.gate.is_closed
                    self._blog.gate.open()
                await self._blog.retire(old)
                self._labels[self._labels.index(old)] = new


async def assert_no_caller_saw_it(blog: VersionedBlog, traffic: Traffic) -> None:
    """No answer was lost or is an error of a service, and each life ended as it had to."""
    seen = {it: count for it, count in traffic.answers.items() if _is_trouble(it)}
    assert (seen, traffic.losses, traffic.mistakes) == ({}, [], [])
    await assert_each_life_ended_rightly(blog, traffic.lives)


def _is_trouble(answer: str) -> bool:
    return answer == "lost" or answer.rpartition(" ")[2] >= "500"


@pytest.mark.timeout(900)
async def test_a_roll_and_the_way_back_are_seen_by_no_caller_and_harm_no_saga(
    blog: VersionedBlog, count: Count
) -> None:
    rolls = Roll(blog, {"orchestrator": 2, "articles": 1, "comments": 1})
    await rolls.begin()
    traffic, stop = Traffic(blog, Random(1), patience=20), asyncio.Event()
    using = asyncio.create_task(traffic.run(stop, people=2, pause=0.5))
    try:
        await blog.expand()
        await rolls.go(Version.THIS, ORDER)
        await rolls.go(Version.RELEASED, ORDER[::-1])
    finally:
        stop.set()
        await using
    assert len(traffic.lives) >= 10
    await assert_no_caller_saw_it(blog, traffic)
    await assert_no_saga_was_harmed(blog, rolls.held)
    count("sagas while the versions were rolled", len(traffic.lives) + 12)


@pytest.mark.soak
@pytest.mark.timeout(float(os.environ.get("SAGABOX_SOAK_MINUTES", "10")) * 60 * 2 + 1800)
async def test_rolls_go_on_for_long_while_many_use_it(
    blog: VersionedBlog, soak_minutes: float, count: Count
) -> None:
    """Two instances of each service, back and forth until the time is over, and 200 deletions."""
    rolls = Roll(blog, dict.fromkeys(ORDER, 2))
    await rolls.begin()
    traffic, stop = Traffic(blog, Random(2), patience=20), asyncio.Event()
    using = asyncio.create_task(traffic.run(stop, people=6, pause=0.5))
    end = time.monotonic() + soak_minutes * 60
    try:
        await blog.expand()
        while time.monotonic() < end or len(traffic.lives) < 200:
            await rolls.go(Version.THIS, ORDER)
            await rolls.go(Version.RELEASED, ORDER[::-1])
    finally:
        stop.set()
        await using
    assert len(traffic.lives) >= 200
    await assert_no_caller_saw_it(blog, traffic)
    await assert_no_saga_was_harmed(blog, rolls.held)
    count("sagas while the versions were rolled", len(traffic.lives) + 6 * len(rolls.held))
