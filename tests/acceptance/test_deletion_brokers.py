"""The deletion with services that send to each other through a broker: the same scenarios, with
deaths of services at six named points, and of the broker itself; `make soak` lets services die at
all points."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from outbox.transports.brokers.opening import broker_at
from tests.acceptance import test_deletion as over_http
from tests.support.blog.agreement import assert_agreement, until_all_is_sent
from tests.support.blog.deleting import SERVICES, Deletions, start_all
from tests.support.brokers.servers import SERVERS, Server, a_server
from tests.support.faults.crashing import THROUGH_A_BROKER, die, survey
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.timeout(600), pytest.mark.databases("sqlite")]

SIX = (
    ("articles", "relay: after deliver, before settle"),
    ("articles", "inbox: before commit"),
    ("comments", "consumer: after handling, before done"),
    ("comments", "inbox: before commit"),
    ("orchestrator", "engine: after commit, before hand-over"),
    ("orchestrator", "consumer: after handling, before done"),
)
"""Who dies where: beside each call, on both of its sides."""
MOMENTS = (0.0, 0.2, 0.6)
"""Seconds from the request until the broker dies."""


each_broker = pytest.mark.parametrize("broker", SERVERS, indirect=True)


@pytest.fixture
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """NATS, unless the test says otherwise."""
    async with a_server(getattr(request, "param", "NATS")) as server:
        yield server


@pytest.fixture
async def blog(
    database_factory: DatabaseFactory, tmp_path: Path, broker: Server
) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path, broker=broker.url()) as running:
        await start_all(running)
        yield running


test_p4_p9_a_deleted_article_is_gone_with_its_comments = (
    over_http.test_p4_p9_a_deleted_article_is_gone_with_its_comments
)
test_p4_a_deletion_under_legal_hold_leaves_both_exactly_as_they_were = (
    over_http.test_p4_a_deletion_under_legal_hold_leaves_both_exactly_as_they_were
)
test_two_deletions_of_an_article_at_once_are_one = (
    over_http.test_two_deletions_of_an_article_at_once_are_one
)
test_p9_comments_that_race_with_the_deletion_are_gone_or_refused = (
    over_http.test_p9_comments_that_race_with_the_deletion_are_gone_or_refused
)


@each_broker
async def test_no_message_goes_over_http(blog: RunningBlog, broker: Server) -> None:
    deletions = Deletions(blog)
    await deletions.prepare(2)
    await deletions.ask()
    await deletions.assert_ended_rightly()
    for name in SERVICES:
        figures = (await blog.ask(name, "GET", "/metrics")).text
        assert 'route="/messages"' not in figures
        assert 'sagabox_inbox_messages_total{outcome="done"}' in figures
        assert f"{name} reads the queue {name} at " in blog.log(name)
    await assert_agreement(blog.databases)
    await until_all_is_read(broker)


@pytest.mark.parametrize("broker", ["NATS", "RabbitMQ"], indirect=True)
async def test_p1_to_p5_p9_a_deletion_ends_rightly_where_a_service_dies_at_six_points(
    blog: RunningBlog, broker: Server, count: Count
) -> None:
    for victim, point in SIX:
        await _die_at(blog, victim, f"{point}:1")
        count("crash points through a broker, each with two deletions", 1)
    await assert_agreement(blog.databases)
    await until_all_is_read(broker)


@each_broker
async def test_p1_to_p5_p9_a_deletion_ends_rightly_where_the_broker_is_killed(
    blog: RunningBlog, broker: Server, count: Count
) -> None:
    for moment in MOMENTS:
        deletions = Deletions(blog)
        await deletions.prepare(4, comments=2)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deletions.ask_all_at_once())
            await asyncio.sleep(moment)  # the moment itself is what is tried
            await asyncio.to_thread(broker.kill)
        # They are accepted without the broker, and go on with it.
        await asyncio.to_thread(broker.start)
        await deletions.assert_ended_rightly()
        count("deaths of the broker, each with four deletions", 1)
    await assert_agreement(blog.databases)
    await until_all_is_read(broker)


async def test_p1_to_p5_p9_it_ends_rightly_where_all_die_and_the_services_come_back_first(
    blog: RunningBlog, broker: Server
) -> None:
    deletions = Deletions(blog)
    await deletions.prepare(4, comments=2)
    await deletions.ask()
    await asyncio.gather(
        asyncio.to_thread(broker.kill), *(it.kill() for it in blog.children.values())
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(start_all(blog))
        for name in SERVICES:
            await until(partial(_cannot_read, blog, name), deadline=60, what=f"{name} misses it")
        await asyncio.to_thread(broker.start)
    await deletions.assert_ended_rightly()
    await assert_agreement(blog.databases)
    await until_all_is_read(broker)


@pytest.mark.soak
@each_broker
@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_it_ends_rightly_wherever_a_service_dies(
    blog: RunningBlog, broker: Server, tmp_path: Path, victim: str, count: Count
) -> None:
    for child in blog.children.values():
        await child.kill()
    points = (await survey(blog, tmp_path))[victim]
    assert points >= THROUGH_A_BROKER
    for crash in [f"{point}:{hit}" for point in sorted(points) for hit in (1, 2, 3)]:
        await _die_at(blog, victim, crash)
        count("crash points through a broker, each with two deletions", 1)
    await assert_agreement(blog.databases)
    await until_all_is_read(broker)


async def _die_at(blog: RunningBlog, victim: str, crash: str) -> None:
    """A deletion and one that a legal hold refuses, while the service dies there."""
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


def _cannot_read(blog: RunningBlog, name: str) -> bool:
    return re.search(f"the queue {name} at .* cannot be read yet", blog.log(name)) is not None


async def until_all_is_read(broker: Server) -> None:
    """No packet is left, and none is held."""
    client = broker_at(broker.url())
    try:

        async def read() -> bool:
            return not any([await client.waiting(name) for name in SERVICES])

        await until(read, deadline=30, what="every packet is done")
    finally:
        await client.aclose()
