"""The deletion with services that send to each other over gRPC: the same scenarios, and deaths at
six named points; `make soak` lets them die at all points."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from orchestrator.api_grpc.v1 import runs_pb2
from tests.acceptance import test_deletion as over_http
from tests.support.blog.agreement import assert_agreement, until_all_is_sent
from tests.support.blog.deleting import SERVICES, Deletions, assert_gone, start_all
from tests.support.faults.crashing import die, survey
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.repository.reporting import Count

pytestmark = [pytest.mark.timeout(600), pytest.mark.databases("sqlite")]

SIX = (
    ("articles", "relay: after deliver, before settle"),
    ("articles", "inbox: before commit"),
    ("comments", "inbox: after commit, before reply"),
    ("comments", "inbox: before commit"),
    ("orchestrator", "engine: after commit, before hand-over"),
    ("orchestrator", "inbox: after commit, before reply"),
)
"""Who dies where: beside each call, on both of its sides."""


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path, over_grpc=True) as running:
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


async def test_no_message_goes_over_http(blog: RunningBlog) -> None:
    deletions = Deletions(blog)
    await deletions.prepare(2)
    await deletions.ask()
    await deletions.assert_ended_rightly()
    for name in SERVICES:
        figures = (await blog.ask(name, "GET", "/metrics")).text
        assert 'route="/messages"' not in figures
        assert 'sagabox_inbox_messages_total{outcome="done"}' in figures
        assert "listens for gRPC" in blog.log(name)


async def test_the_orchestrator_answers_for_its_runs_over_grpc(blog: RunningBlog) -> None:
    article = await blog.publish()
    channel = grpc.aio.insecure_channel(blog.way_to("orchestrator").removeprefix("grpc://"))
    start: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    start = channel.unary_unary("/sagabox.v1.Runs/Start")
    asked = runs_pb2.StartRequest(
        saga="delete-article", input=b'{"article_id": "%s"}' % article.encode(), wait=30
    )
    run = runs_pb2.Run.FromString(await start(asked.SerializeToString()))
    await channel.close()
    assert run.status == "COMPLETED"
    await assert_gone(blog, article)


async def test_the_address_of_a_saga_is_one_that_callers_can_ask(blog: RunningBlog) -> None:
    article = await blog.publish()
    answer = await blog.ask("articles", "DELETE", f"/articles/{article}")
    assert answer.headers["location"].startswith(blog.url("orchestrator"))


async def test_p1_to_p5_p9_a_deletion_ends_rightly_where_a_service_dies_at_six_points(
    blog: RunningBlog, count: Count
) -> None:
    for victim, point in SIX:
        await _die_at(blog, victim, f"{point}:1")
        count("crash points over gRPC, each with two deletions", 1)
    await assert_agreement(blog.databases)


@pytest.mark.soak
@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_p9_it_ends_rightly_wherever_a_service_dies(
    blog: RunningBlog, tmp_path: Path, victim: str, count: Count
) -> None:
    for child in blog.children.values():
        await child.kill()
    points = (await survey(blog, tmp_path))[victim]
    assert points
    for crash in [f"{point}:{hit}" for point in sorted(points) for hit in (1, 2, 3)]:
        await _die_at(blog, victim, crash)
        count("crash points over gRPC, each with two deletions", 1)
    await assert_agreement(blog.databases)


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
