"""The ways between the services, and from each to PostgreSQL, are slow, narrow, silent, cut, reset,
or half open: one side has gone and the other does not know."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import Deletions
from tests.support.blog.rounds import scenario
from tests.support.databases.postgres import PostgresServer
from tests.support.faults.chaos import NODES, world
from tests.support.processes.running import RunningBlog
from tests.support.repository.reporting import Count

pytestmark = pytest.mark.timeout(900)
SERVICES = (
    "a service is cut off",
    "a service is silent",
    "a service is slow",
    "connections to a service are reset",
    "connections to a service are half open",
)
DATABASES = (
    "a database is cut off",
    "a database is silent",
    "a database is slow",
    "a database has a narrow way",
    "connections to a database are reset",
    "connections to a database are closed",
)


async def test_deletions_end_rightly_over_broken_wires(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        await round_of(*SERVICES, *DATABASES, at_once=3)


@pytest.mark.soak
async def test_deletions_end_rightly_over_wires_that_break_all_the_time(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    async with scenario(blog_on_own_server, own_server, count) as round_of:
        for _ in range(10):
            await round_of(*SERVICES, *DATABASES, *SERVICES, *DATABASES, at_once=4)


async def test_services_whose_databases_have_silently_gone_find_out_and_deletions_end(
    blog_on_own_server: RunningBlog, own_server: PostgresServer, count: Count
) -> None:
    """All connections to PostgreSQL are half open at once; new ones work."""
    async with world(blog_on_own_server, own_server, Random(1)) as all_:
        deletions = Deletions(blog_on_own_server)
        await deletions.prepare(8)
        asking = asyncio.create_task(deletions.ask_all_at_once(deadline=120))
        for node in NODES:
            all_.databases[node].lose()
        began = time.monotonic()
        await asking
        await deletions.assert_ended_rightly(deadline=120)
        count("seconds until half-open connections were found out", round(time.monotonic() - began))
        await assert_agreement(blog_on_own_server.databases)
