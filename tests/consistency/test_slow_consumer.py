"""A participant that takes a hundred times as long as usual."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions, start_all
from tests.support.faults.http_proxy import HttpProxy, http_proxy
from tests.support.processes.memory import growth, resident
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.timeout(900), pytest.mark.databases("postgresql")]
LARGE = pytest.param(2_000, id="2000", marks=pytest.mark.soak)


@pytest.mark.parametrize("number", [40, LARGE])
async def test_deletions_end_rightly_and_memory_stays_while_a_participant_is_slow(
    blog: RunningBlog, number: int, count: Count
) -> None:
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(http_proxy(blog.url("comments"), HttpProxy.slowly))
        blog.participants = {"articles": blog.url("articles"), "comments": slow.address}
        await start_all(blog)
        deletions = Deletions(blog)
        for _ in range(number // 20):
            await deletions.prepare(20)
        before = resident(blog, "orchestrator", "articles", "comments")
        await deletions.ask()
        await deletions.assert_ended_rightly(deadline=60 + number / 2)
        after = resident(blog, "orchestrator", "articles", "comments")
        assert len(slow.seen) > 2
        for name, grown in growth(before, after):
            assert grown < 48, f"{name} has grown by {grown} MiB"
        await assert_agreement(blog.databases)
        count("sagas with a participant that is 100 times slower", number)
