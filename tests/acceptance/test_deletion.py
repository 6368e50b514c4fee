"""Delete an article with its comments, or leave both as they were: three real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.blog.deleting import assert_gone, commented, kept, start_all, until_published
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        await start_all(running)
        yield running


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
