"""A database is migrated while its service runs, and code of both ages works on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from migrations import commands
from outbox.clock import SystemClock
from tests.support.blog.agreement import assert_agreement
from tests.support.blog.blog import articles_schema
from tests.support.blog.deleting import start_all
from tests.support.blog.traffic import Traffic, wrong_with
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import Histories, at, migrated
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    """The database of articles is made by its migrations."""

    def make(schema: Schema | str) -> Database:
        return database_factory(migrated("articles") if schema is articles_schema else schema)

    async with running_blog(make, tmp_path / "blog") as running:
        yield running


async def test_expanding_revisions_disturb_no_caller_and_the_older_code_starts_on_them(
    blog: RunningBlog, tmp_path: Path
) -> None:
    """Requests may wait for the lock of a moment. None is refused but by a restart."""
    histories = Histories(tmp_path / "histories")
    await start_all(blog)
    # However long a busy machine takes for an answer: it is no lost one.
    traffic, stop = Traffic(blog, Random(1), patience=60), asyncio.Event()
    using = asyncio.create_task(traffic.run(stop, people=3, pause=0.1))

    async def used() -> None:
        """Some traffic on what there is now."""
        known = len(traffic.lives)
        await until(lambda: len(traffic.lives) > known + 2, what="articles are written")

    for up in (
        "op.add_column('articles', sa.Column('subtitle', sa.Text(), nullable=True))",
        "op.create_index('articles_author', 'articles', ['author'])",
        "op.create_table('readers', sa.Column('id', sa.Integer(), primary_key=True))",
    ):
        histories.add(up)
        await commands.upgrade(
            histories.service(), at(blog.databases["articles"]), clock=SystemClock()
        )
        await used()
    before = dict(traffic.answers)
    assert not [it for it in before if it == "lost" or it.endswith(" 503")], before
    # The code, which is older than the database now, is rolled out once more.
    await blog.children["articles"].stop()
    await blog.start("articles")
    await used()
    stop.set()
    await using
    assert traffic.mistakes == []
    assert len(traffic.lives) > 3
    for life in traffic.lives:
        _, wrong = await wrong_with(blog, life, 60)
        assert wrong == "", life
    await assert_agreement(blog.databases)
