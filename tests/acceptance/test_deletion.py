"""Delete an article with its comments, or leave both as they were: three real processes, killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import articles
import comments
import orchestrator
import outbox
from outbox.testing import crash_points
from tests.support.fixtures import DatabaseFactory
from tests.support.running import RunningBlog, running_blog
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(240)

SERVICES = ("orchestrator", "articles", "comments")
# Where each point is reached in a deletion.
REACHED = {
    "engine": ("orchestrator",),
    "relay": ("orchestrator", "articles"),
    "inbox": ("orchestrator", "articles", "comments"),
    "outbox": ("articles",),
}
POINTS = sorted(crash_points(outbox, articles, comments, orchestrator))


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        await asyncio.gather(*(running.start(name) for name in SERVICES))
        yield running


@dataclass
class Kept:
    """An article on legal hold with its comments, as they were before its deletion."""

    article: dict[str, Any]
    comments: list[dict[str, Any]]


async def commented(blog: RunningBlog, count: int = 3) -> str:
    """A new article with so many comments."""
    article = await blog.publish()
    await blog.until_known(article)
    for number in range(count):
        await blog.comment(article, f"comment {number}")
    return article


async def kept(blog: RunningBlog, article: str) -> Kept:
    """How both stand now."""
    shown = await blog.ask("articles", "GET", f"/articles/{article}")
    assert shown.status_code == 200, shown.text
    return Kept(shown.json(), await blog.comments_of(article))


async def assert_gone(blog: RunningBlog, article: str) -> None:
    """P9: there is neither the article nor a comment, and none is accepted."""
    assert (await blog.ask("articles", "GET", f"/articles/{article}")).status_code == 410
    assert await blog.comments_of(article) == []
    comment = {"article_id": article, "author": "bob", "content": "late"}
    assert (await blog.ask("comments", "POST", "/comments", json=comment)).status_code == 410


async def until_published(blog: RunningBlog, article: str) -> None:
    """The news of the end travels behind the end."""

    async def published() -> bool:
        shown = await blog.ask("articles", "GET", f"/articles/{article}")
        return bool(shown.json()["status"] == "published")

    await until(published, deadline=30, what="the article is published again")


async def test_p4_p9_a_deleted_article_is_gone_with_its_comments(blog: RunningBlog) -> None:
    article = await commented(blog)
    saga = await blog.delete(article)
    assert await blog.until_ended(saga) == "COMPLETED"
    await assert_gone(blog, article)


async def test_p4_a_deletion_under_legal_hold_leaves_both_exactly_as_they_were(
    blog: RunningBlog,
) -> None:
    article = await commented(blog)
    await blog.hold(article)
    before = await kept(blog, article)
    saga = await blog.delete(article)
    assert await blog.until_ended(saga) == "COMPENSATED"
    await until_published(blog, article)
    assert await kept(blog, article) == before
    await blog.comment(article, "and it goes on")


async def test_two_deletions_of_an_article_at_once_are_one(blog: RunningBlog) -> None:
    """One by the articles service, one by the orchestrator's own API: the second is refused or
    becomes another name of the first, and both ids resolve."""
    article = await commented(blog)
    saga, started = await asyncio.gather(
        blog.delete(article),
        blog.ask("orchestrator", "POST", "/sagas/delete-article", json={"article_id": article}),
    )
    assert started.status_code in {200, 202, 409}, started.text
    assert await blog.until_ended(saga) == "COMPLETED"
    await assert_gone(blog, article)
    listed = await blog.ask("orchestrator", "GET", "/sagas", params={"key": article})
    ended = [it for it in listed.json()["items"] if it["status"] == "COMPLETED"]
    assert len(ended) == 1


def test_every_crash_point_has_a_victim() -> None:
    assert {point.partition(":")[0] for point in POINTS} == set(REACHED)


@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_to_p5_a_deletion_ends_rightly_wherever_a_service_is_killed(
    blog: RunningBlog, victim: str
) -> None:
    """At every crash point in turn, one article to be deleted and one on legal hold."""
    points = [point for point in POINTS if victim in REACHED[point.partition(":")[0]]]
    assert points
    doomed = [await commented(blog, 2) for _ in points]
    held = [await commented(blog, 2) for _ in points]
    for article in held:
        await blog.hold(article)
    before = {article: await kept(blog, article) for article in held}
    await blog.children[victim].stop()
    sagas: dict[str, str] = {}
    for number, point in enumerate(points):
        child = await blog.start(victim, crash=f"{point}:{number % 3 + 1}")
        dead = asyncio.create_task(child.wait())
        for article in (doomed[number], held[number]):
            with contextlib.suppress(httpx.TransportError):
                sagas[article] = await blog.delete(article)
        await work_until_dead(blog, dead)
        assert child.ending == "SIGKILL", f"{point}: {child.ending}\n{blog.log(victim)}"
    await blog.start(victim)
    for article in doomed:
        saga = sagas.get(article) or await asked_again(blog, article)
        assert saga is None or await blog.until_ended(saga) == "COMPLETED"
        await assert_gone(blog, article)
    for article in held:
        saga = sagas.get(article) or await blog.delete(article)
        assert await blog.until_ended(saga) == "COMPENSATED"
        await until_published(blog, article)
        assert await kept(blog, article) == before[article]


async def asked_again(blog: RunningBlog, article: str) -> str | None:
    """The saga of a deletion whose answer was lost: the same one as long as it is under way, and
    none where the article is gone already."""
    answer = await blog.ask("articles", "DELETE", f"/articles/{article}")
    assert answer.status_code in {202, 410}, answer.text
    return answer.json()["saga_id"] if answer.status_code == 202 else None


async def work_until_dead(blog: RunningBlog, dead: asyncio.Task[int]) -> None:
    """More deletions, until the point is reached as often as it takes."""
    async with asyncio.timeout(60):
        while not dead.done():
            try:
                await blog.delete(await blog.publish())
            except httpx.TransportError:
                await asyncio.wait({dead}, timeout=5)
            await asyncio.wait({dead}, timeout=0.1)


async def test_p9_comments_that_race_with_the_deletion_are_gone_or_refused(
    blog: RunningBlog,
) -> None:
    article = await commented(blog, 0)
    statuses: list[int] = []
    turns = asyncio.Semaphore(16)
    half = asyncio.Event()

    async def post(number: int) -> None:
        async with turns:
            comment = {"article_id": article, "author": "bob", "content": str(number)}
            answer = await blog.ask("comments", "POST", "/comments", json=comment)
            statuses.append(answer.status_code)
            if len(statuses) == 100:
                half.set()

    async def delete() -> str:
        await half.wait()
        return await blog.delete(article)

    deleting = asyncio.create_task(delete())
    await asyncio.gather(*(post(number) for number in range(500)))
    assert await blog.until_ended(await deleting) == "COMPLETED"
    assert set(statuses) <= {201, 409, 410}
    assert statuses.count(201) >= 100
    await assert_gone(blog, article)
