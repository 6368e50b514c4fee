"""PostgreSQL ends all connections, restarts at once, or is killed, again and again, while deletions
run on two orchestrators."""

from __future__ import annotations

import pytest

from tests.support.blog.rounds import scenario
from tests.support.databases.postgres import PostgresServer
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(900)


async def test_every_accepted_deletion_ends_though_postgresql_is_restarted_under_it(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        await round_of(
            "all backends are terminated",
            "PostgreSQL: immediate restart",
            "PostgreSQL: postmaster killed",
            "all backends are terminated",
            "PostgreSQL: immediate restart",
        )


@pytest.mark.soak
async def test_every_accepted_deletion_ends_though_postgresql_is_restarted_all_the_time(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        for _ in range(5):
            await round_of(
                *["all backends are terminated", "PostgreSQL: immediate restart"] * 10, at_once=2
            )
