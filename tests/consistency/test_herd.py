"""Everything that waited for the end of an outage comes at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions, start_all, until_all_have_ended
from tests.support.orchestrator.saga_writers import assert_histories_are_whole, rows
from tests.support.processes.memory import growth, resident
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.timeout(1800), pytest.mark.databases("postgresql")]
LARGE = pytest.param(10_000, id="10000", marks=pytest.mark.soak)
_CALLERS = 32


@pytest.mark.parametrize("number", [200, LARGE])
async def test_sagas_that_wait_for_a_participant_all_end_when_it_is_back(
    blog: RunningBlog, number: int, count: Count
) -> None:
    await start_all(blog)
    witnesses = Deletions(blog)
    await witnesses.prepare(4, comments=2)
    await blog.children["comments"].kill()
    before = resident(blog, "orchestrator", "articles")
    turns = asyncio.Semaphore(_CALLERS)

    async def delete_another() -> None:
        async with turns:
            await blog.delete(await blog.publish())

    await asyncio.gather(*(delete_another() for _ in range(number)))
    await witnesses.ask()
    waiting = resident(blog, "orchestrator", "articles")
    back = time.monotonic()
    await blog.start("comments")
    await until_all_have_ended(blog, deadline=60 + number / 10)
    seconds = time.monotonic() - back
    await witnesses.assert_ended_rightly()
    await assert_agreement(blog.databases, deadline=60 + number / 20)
    assert_histories_are_whole(blog.databases["orchestrator"])
    ended = rows(
        blog.databases["orchestrator"], "SELECT count(*) FROM saga WHERE status = 'COMPLETED'"
    )
    assert ended == [(number + 2,)]
    drained = resident(blog, "orchestrator", "articles")
    count(f"sagas after an outage, drained at {number / seconds:.0f} a second", number)
    for name, grown in (*growth(before, waiting), *growth(before, drained)):
        # Some 4 KiB for each that waits, and what the allocator keeps.
        assert grown < 48 + number / 64, f"{name} has grown by {grown} MiB"
