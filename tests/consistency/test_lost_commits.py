"""The answer to a COMMIT is lost, the COMMIT itself, or its client has gone before it arrives:
between each service and PostgreSQL."""

from __future__ import annotations

import pytest

from tests.support.blog.rounds import scenario
from tests.support.databases.postgres import PostgresServer
from tests.support.faults.chaos import NODES
from tests.support.faults.tcp_proxy import Loss
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(900)
KINDS = {
    Loss.ANSWER: "answers to COMMITs are lost",
    Loss.COMMIT: "COMMITs are lost",
    Loss.DELAYED: "COMMITs are late, and their clients gone",
}


async def test_deletions_end_rightly_though_commits_are_lost_between_every_service_and_its_database(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        all_ = await round_of(*KINDS.values(), *KINDS.values(), *KINDS.values(), at_once=3)
        lost = [loss for node in NODES for loss in all_.commits[node].lost]
        assert set(lost) == set(Loss)
        count("COMMITs of real processes that were lost", len(lost))


@pytest.mark.soak
async def test_deletions_end_rightly_though_commits_are_lost_all_the_time(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        for _ in range(10):
            all_ = await round_of(*[*KINDS.values()] * 8, at_once=4)
        assert all(set(all_.commits[node].lost) == set(Loss) for node in NODES)
