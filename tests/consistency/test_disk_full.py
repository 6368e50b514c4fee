"""The disk is full, and has room again: what was acknowledged is kept, what was refused is not
there, and no service has to be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.blog.agreement import assert_agreement
from tests.support.blog.deleting import SERVICES, Deletions, commented, start_all
from tests.support.databases import binaries
from tests.support.databases.databases import PostgresTemplates
from tests.support.databases.full_disks import SmallDisk, small_disk
from tests.support.databases.postgres import PostgresServer
from tests.support.orchestrator.saga_writers import rows
from tests.support.processes.preparing import limited_to_pages
from tests.support.processes.running import RunningBlog, running_blog
from tests.support.processes.waiting import until

pytestmark = pytest.mark.timeout(900)
_LARGE = "x" * 4000


class Filling:
    """Writes large articles and comments, and a note of which were acknowledged."""

    def __init__(self, blog: RunningBlog, article: str) -> None:
        self._blog = blog
        self._new = {
            "articles": {"title": "Tides", "body": _LARGE, "author": "ada"},
            "comments": {"article_id": article, "author": "bob", "content": _LARGE},
        }
        self._before = {name: self._there(name) for name in self._new}
        self.accepted: dict[str, set[str]] = {name: set() for name in self._new}

    async def until_full(self, name: str, code: str = "database-full") -> None:
        """Write until that service says so."""

        async def full() -> bool:
            answer = await self._blog.ask(name, "POST", f"/{name}", json=self._new[name])
            if answer.status_code == 201:
                self.accepted[name].add(answer.json()["id"])
                return False
            assert answer.status_code == 503, answer.text
            return bool(answer.json()["code"] == code)

        await until(full, deadline=90, what=f"there is no room for {name}")

    async def until_full_of_runs(self) -> None:
        """Delete new articles until the orchestrator has no room for a run; its log says so."""

        async def full() -> bool:
            article = await self._blog.publish()
            self.accepted["articles"].add(article)
            await self._blog.delete(article)
            return "full" in self._blog.log("orchestrator")

        await until(full, deadline=90, what="there is no room for runs")

    def assert_exactly_the_accepted_are_there(self) -> None:
        """P1: what was acknowledged, and nothing else."""
        for name, accepted in self.accepted.items():
            assert self._there(name) - self._before[name] == {_plain(it) for it in accepted}

    def _there(self, name: str) -> set[str]:
        return {_plain(it[0]) for it in rows(self._blog.databases[name], f"SELECT id FROM {name}")}


def _plain(id_: object) -> str:
    return str(id_).replace("-", "")


async def assert_it_bears(
    blog: RunningBlog, fill: Callable[[], None], free: Callable[[], None], victims: tuple[str, ...]
) -> None:
    """Deletions are under way when the disk gets full; more are asked for while it is."""
    deletions, more = Deletions(blog), Deletions(blog)
    for each in (deletions, more):
        await each.prepare(6)
    filling = Filling(blog, await commented(blog, 1))
    await deletions.ask()
    fill()
    for name in victims:
        if name == "orchestrator":
            await filling.until_full_of_runs()
        else:
            await filling.until_full(name)
    asking = asyncio.create_task(more.ask_all_at_once(deadline=120))
    await asyncio.sleep(1)  # for what is tried again and again meanwhile
    free()
    await asking
    filling.assert_exactly_the_accepted_are_there()
    for each in (deletions, more):
        await each.assert_ended_rightly(deadline=120)
    await assert_agreement(blog.databases, deadline=120)
    article = await commented(blog, 2)
    assert await blog.until_ended(await blog.delete(article)) == "COMPLETED"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("victim", SERVICES)
async def test_p1_p9_on_sqlite_nothing_is_half_done_for_want_of_room_and_it_goes_on_after(
    blog: RunningBlog, tmp_path: Path, victim: str
) -> None:
    limit = tmp_path / "pages"
    limit.write_text("0", "utf-8")
    for name in SERVICES:
        await blog.start(name, extra=limited_to_pages(limit) if name == victim else None)

    def fill() -> None:
        pages = rows(blog.databases[victim], "PRAGMA page_count")[0][0]
        limit.write_text(str(pages), "utf-8")

    def free() -> None:
        limit.write_text("0", "utf-8")

    await assert_it_bears(blog, fill, free, (victim,))
    refused = [line for line in blog.log(victim).splitlines() if "full" in line]
    assert refused, "the disk has never been full"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path) as made:
        yield made


@pytest.fixture
def server_on_small_disk(disk: SmallDisk) -> Iterator[PostgresServer]:
    made = PostgresServer(binaries.from_wheel(), settings={"min_wal_size": "32MB"})
    try:
        with made.connect() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.folder}'".encode())
            connection.execute(b"ALTER SYSTEM SET default_tablespace = 'small'")
            connection.execute(b"SELECT pg_reload_conf()")
        yield made
    finally:
        made.close()


async def test_p1_p9_on_postgresql_nothing_is_half_done_for_want_of_room_and_it_goes_on_after(
    disk: SmallDisk, server_on_small_disk: PostgresServer, tmp_path: Path
) -> None:
    """The tables are on a disk of their own, the log is not: a full log stops the server, which is
    then as one that is restarted."""
    make = PostgresTemplates(server_on_small_disk).fresh
    async with running_blog(make, tmp_path / "blog") as blog:
        await start_all(blog)
        await assert_it_bears(blog, disk.fill, disk.free, ("articles", "comments"))
