"""A service dies again while it takes up what it left when it died before."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import SERVICES, Deletions
from tests.support.faults.crashing import die, die_again, survey
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_deletions_end_rightly_though_each_recovery_is_killed_at_the_next_point(
    blog: RunningBlog, tmp_path: Path, victim: str, count: Count
) -> None:
    points = sorted((await survey(blog, tmp_path))[victim])
    every = [Deletions(blog) for _ in points]
    for deletions in every:
        await deletions.prepare(2, comments=2)
    await blog.children[victim].kill()
    for number, (point, deletions) in enumerate(zip(points, every, strict=True)):
        try:
            await die(blog, victim, f"{point}:{number % 3 + 1}", deletions)
        except BaseException as error:
            error.add_note(f"{victim} was to die at {point!r}")
            raise
        count("recoveries of real processes that were killed", 1)
    await blog.start(victim)
    for deletions in every:
        await deletions.ask_all_at_once()
        await deletions.assert_ended_rightly()
    await assert_agreement(blog.databases)


@pytest.mark.soak
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_deletions_end_rightly_after_every_pair_of_crashes(
    blog: RunningBlog, tmp_path: Path, victim: str, count: Count
) -> None:
    """The second one at the first hit after the restart: of what is left to be done, if that gets
    there, else of new work beside it."""
    points = sorted((await survey(blog, tmp_path))[victim])
    in_recovery = 0
    for first, second in itertools.product(points, points):
        try:
            deletions = Deletions(blog)
            await deletions.prepare(2)
            await blog.children[victim].kill()
            await die(blog, victim, f"{first}:1", deletions)
            in_recovery += await die_again(blog, victim, f"{second}:1")
            await blog.start(victim)
            await deletions.ask_all_at_once()
            await deletions.assert_ended_rightly()
        except BaseException as error:
            error.add_note(f"{victim} died at {first!r}, and then at {second!r}")
            raise
    await assert_agreement(blog.databases)
    assert in_recovery > 0
    count("pairs of crashes of real processes", len(points) ** 2)
