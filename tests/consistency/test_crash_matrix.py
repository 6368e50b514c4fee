"""What if it dies here? Every crash point that there is, in every service that gets to it.

The points come from the source, and which service reaches which comes from running it: a new one is
in the matrix by itself, and one that no service reaches fails, but for those that are named as
other tests' matter.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.blog.agreement import assert_agreement, until_all_is_sent
from tests.support.blog.deleting import SERVICES, Deletions
from tests.support.faults.crashing import ELSEWHERE, POINTS, die, survey
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(600)
FIRST = pytest.param((1,), id="first hit")
LATER = pytest.param((2, 3), id="later hits", marks=pytest.mark.soak)


@pytest.mark.databases("sqlite")
async def test_every_crash_point_is_reached_by_some_service_in_a_deletion(
    blog: RunningBlog, tmp_path: Path
) -> None:
    reached = await survey(blog, tmp_path)
    assert POINTS - frozenset().union(*reached.values()) == ELSEWHERE
    assert all(reached.values()), "a service that dies nowhere is not tested"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("hits", [FIRST, LATER])
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_a_deletion_ends_rightly_wherever_a_service_is_killed(
    blog: RunningBlog, tmp_path: Path, victim: str, hits: tuple[int, ...], count: Count
) -> None:
    await die_everywhere(blog, tmp_path, victim, hits, count)


@pytest.mark.soak
@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_on_postgresql_it_ends_rightly_at_every_hit(
    blog: RunningBlog, tmp_path: Path, victim: str, count: Count
) -> None:
    await die_everywhere(blog, tmp_path, victim, (1, 2, 3), count)


async def die_everywhere(
    blog: RunningBlog, tmp_path: Path, victim: str, hits: tuple[int, ...], count: Count
) -> None:
    """At each of its points, a deletion and one that a legal hold refuses."""
    points = (await survey(blog, tmp_path))[victim]
    assert points
    for crash in [f"{point}:{hit}" for point in sorted(points) for hit in hits]:
        try:
            deletions = Deletions(blog)
            await deletions.prepare(2, comments=2)
            await blog.children[victim].kill()
            await die(blog, victim, crash, deletions)
            await blog.start(victim)
            await deletions.ask_all_at_once()
            await deletions.assert_ended_rightly()
            await until_all_is_sent(blog.databases)
        except BaseException as error:
            error.add_note(f"{victim} died at {crash!r}")
            raise
        count("crash points of real processes, each with two deletions", 1)
    await assert_agreement(blog.databases)
