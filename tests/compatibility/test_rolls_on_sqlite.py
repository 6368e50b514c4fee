"""On SQLite a file has one process. So a service stops, its file is migrated, and the next version
starts, and later the released one again: callers wait meanwhile, and no saga is harmed."""

from __future__ import annotations

import asyncio
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
    pytest.mark.databases("sqlite"),
    pytest.mark.soak,
]


class Restarts:
    """A blog of one instance of each service, all of them of the released version at first."""

    def __init__(self, blog: VersionedBlog) -> None:
        self._blog = blog
        self._labels: dict[str, str] = {}
        self.held: list[Deletions] = []

    async def begin(self) -> None:
        """Start the released version."""
        labels = await self._blog.add_all(Version.RELEASED)
        self._labels = {self._blog.name_of(it): it for it in labels}

    async def go(self, version: Version, order: Sequence[str]) -> None:
        """Stop each service and start that version of it. Deletions that were begun before are
        under way until the orchestrator of that version serves."""
        self.held.append(await begun_deletions(self._blog, 4))
        begun = {*self.held[-1].asked}
        for name in order:
            await self._blog.retire(self._labels[name])
            if version is Version.THIS:
                await self._blog.expand(name)
            self._labels[name] = await self._blog.add(name, version)
            if name == "orchestrator":
                assert begun <= self._blog.under_way()
                self._blog.gate.open()


@pytest.mark.timeout(600)
async def test_a_version_and_the_one_before_take_over_the_files_of_each_other(
    blog: VersionedBlog, count: Count
) -> None:
    restarts = Restarts(blog)
    await restarts.begin()
    traffic, stop = Traffic(blog, Random(3), patience=20), asyncio.Event()
    using = asyncio.create_task(traffic.run(stop, people=2, pause=0.5))
    try:
        await restarts.go(Version.THIS, ORDER)
        await restarts.go(Version.RELEASED, ORDER[::-1])
    finally:
        stop.set()
        await using
    assert len(traffic.lives) >= 5
    assert traffic.mistakes == []
    await assert_each_life_ended_rightly(blog, traffic.lives)
    await assert_no_saga_was_harmed(blog, restarts.held)
    count("sagas while the versions were rolled", len(traffic.lives) + 8)
