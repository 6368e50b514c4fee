"""`sagabox audit --repair`: what it starts puts right what was wrong, and nothing else."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, select

from articles.model import Article
from comments.model import Comment, Known, Thread
from orchestrator import Saga
from orchestrator.sagas.delete_article import delete_article
from orchestrator.sagas.purge_thread import purge_thread
from orchestrator.sagas.release_article import release_article
from orchestrator.sagas.retell_article import retell_article
from outbox import sqlite
from tests.support.blog.audited import Audited
from tests.support.blog.blog import START, new_id
from tests.support.blog.whole_blog import WholeBlog, whole_blog
from tests.support.databases.migrating import Told
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.http.servers import serving
from tests.support.processes.cli import sagabox, told_error
from tests.support.processes.waiting import until

pytestmark = pytest.mark.slow

_COMMAND = sys.modules[
    "orchestrator.cli.audit.command"
]  # the package has the command under that name
REPAIRS: tuple[Saga[Any], ...] = (purge_thread, release_article, retell_article)


@dataclass(frozen=True)
class Place:
    """The blog at work, its databases, and where its orchestrator listens."""

    blog: WholeBlog
    databases: Audited
    url: str

    async def audit(self, *arguments: str, stdin: str | None = None) -> Told:
        """The command, as a person types it."""
        variables: dict[str, str | None] = {
            f"SAGABOX_DATABASE_URL_{name.upper()}": it.url
            for name, it in self.databases.databases.items()
        }
        variables["SAGABOX_URL_ORCHESTRATOR"] = self.url
        return await asyncio.to_thread(sagabox, "audit", *arguments, stdin=stdin, **variables)

    async def run(self, saga: str, **input: str) -> str:
        """Have that saga run; how it ended."""
        answer = await self.blog.ask("orchestrator", "POST", f"/sagas/{saga}", json=input)
        ended = await self.blog.until_ended(answer.json()["id"])
        status: str = ended["status"]
        return status

    def _reading(self, name: str) -> Connection:
        # A reader waits for no writer: this loop would stand still, and the writer is a task of it.
        return self.databases.engines[name].execution_options(**sqlite.READ_ONLY).connect()

    def article(self, id: str) -> Any:
        """What articles has of it."""
        with self._reading("articles") as connection:
            return connection.execute(select(Article.__table__).where(Article.id == id)).one()

    def thread(self, id: str) -> Any:
        """What comments has of it."""
        query = select(Thread.__table__).where(Thread.article_id == id)
        with self._reading("comments") as connection:
            return connection.execute(query).one()

    def tags(self, id: str) -> list[str | None]:
        """Who archived its comments, for each of them."""
        query = select(Comment.archived_by).where(Comment.article_id == id)
        with self._reading("comments") as connection:
            return list(connection.scalars(query))


@pytest.fixture
def databases(database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine) -> Audited:
    """The three databases, empty."""
    return Audited(database_factory, make_sync_engine)


@pytest.fixture
async def place(databases: Audited) -> AsyncIterator[Place]:
    sagas: list[Saga[Any]] = [delete_article, *REPAIRS]
    async with (
        whole_blog(databases.databases, sagas) as blog,
        serving(blog.services["orchestrator"].app) as url,
    ):
        yield Place(blog, databases, url)


async def test_everything_that_names_a_repair_is_put_right_and_nothing_else(place: Place) -> None:
    held, other, dead = new_id(), new_id(), new_id()
    databases = place.databases
    locked = databases.article(hidden_by=held, deletion_saga=held, thread={"closed_by": held})
    databases.comment(locked, archived_by=held)
    twice = databases.article(hidden_by=other, thread={"closed_by": dead})
    restored = databases.tombstone(thread={"known": Known.PUBLISHED, "purged_at": None})
    databases.comment(restored)
    databases.comment(restored, archived_by=dead)
    unheard = databases.article_alone()
    behind = databases.article(version=3)
    lost = databases.article(thread={"purged_at": START})

    told = await place.audit("--repair", "--yes", "--json")
    document = json.loads(told.out)
    assert told.code == 1, told
    # What comments has purged is gone: that one is for a person.
    assert [(it["id"], it["code"]) for it in document["divergences"]] == [(lost, "thread-not-open")]
    started = [(it["name"], it["input"]["article_id"]) for it in document["repair"]["sagas"]]
    assert sorted(started) == sorted(
        [
            ("release-article", locked),
            ("release-article", twice),
            ("release-article", twice),
            ("purge-thread", restored),
            ("retell-article", unheard),
            ("retell-article", behind),
        ]
    )
    assert {it["status"] for it in document["repair"]["sagas"]} == {"COMPLETED"}
    assert (place.article(locked).hidden_by, place.article(locked).deletion_saga) == (None, None)
    assert (place.thread(locked).closed_by, place.tags(locked)) == (None, [None])
    assert (place.article(twice).hidden_by, place.thread(twice).closed_by) == (None, None)
    assert place.thread(restored).purged_at is not None
    assert place.tags(restored) == []
    assert (place.thread(unheard).version, place.thread(behind).version) == (1, 3)

    databases.change_thread(lost, purged_at=None)
    told = await place.audit("--repair", "--yes", "--json")
    assert told.code == 0
    assert "repair" not in json.loads(told.out)


async def test_the_lock_of_a_terminated_run_is_cleared_and_the_article_can_be_deleted(
    place: Place,
) -> None:
    article = await place.blog.publish()
    place.blog.open.clear()
    saga = (await place.blog.start(article)).json()["id"]
    await place.blog.tell(saga, "terminate")
    place.blog.open.set()  # its first command arrives all the same
    await until(lambda: place.article(article).hidden_by == saga, what="the article is hidden")
    told = await place.audit("--repair", "--yes")
    assert (told.code, "articles and comments agree" in told.out) == (0, True), told
    again = await place.blog.start(article, prefer="wait=20")
    assert again.json()["status"] == "COMPLETED"


async def test_a_repair_looks_for_itself_and_does_nothing_where_nothing_is_wrong(
    place: Place,
) -> None:
    article = await place.blog.publish()
    assert await place.run("purge-thread", article_id=article) == "COMPENSATED"
    assert place.tags(article) == [None]
    holder = new_id()
    place.databases.change_article(article, hidden_by=holder)
    place.databases.change_thread(article, closed_by=holder)
    assert await place.run("release-article", article_id=article, holder=new_id()) == "COMPLETED"
    assert (place.article(article).hidden_by, place.thread(article).closed_by) == (holder, holder)
    assert await place.run("release-article", article_id=article, holder="me") == "COMPENSATED"
    gone = place.databases.tombstone()
    holder = place.article(gone).hidden_by
    assert await place.run("release-article", article_id=gone, holder=holder) == "COMPENSATED"
    assert place.thread(gone).closed_by == holder
    for saga in ("purge-thread", "retell-article"):
        assert await place.run(saga, article_id=new_id()) == "COMPENSATED"


async def test_no_person_is_overruled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    article = place.databases.article(hidden_by=(dead := new_id()))
    told = await place.audit("--repair")
    assert (told.code, "the command cannot ask" in told.err) == (2, True)
    assert told_error(await place.audit("--repair", "--json"))["next_step"].endswith("--json")
    monkeypatch.setattr(_COMMAND, "at_a_terminal", lambda: True)
    told = await place.audit("--repair", stdin="n\n")
    assert (told.code, "nothing was changed" in told.out) == (1, True)
    assert place.article(article).hidden_by == dead
    told = await place.audit("--repair", stdin="y\n")
    assert (told.code, "agree" in told.out) == (0, True), told
    assert place.article(article).hidden_by is None


async def test_while_it_cannot_be_told_nothing_is_repaired(place: Place) -> None:
    article = place.databases.article(hidden_by=(dead := new_id()))
    place.databases.message("orchestrator", destination="elsewhere")
    told = await place.audit("--repair", "--yes", "--timeout", "0")
    assert told.code == 4, told
    assert place.article(article).hidden_by == dead


async def test_an_orchestrator_without_the_repairing_saga_is_told_before_anything_begins(
    databases: Audited,
) -> None:
    article = databases.article(hidden_by=new_id())
    databases.article_alone()
    sagas: list[Saga[Any]] = [delete_article, release_article]
    async with (
        whole_blog(databases.databases, sagas) as blog,
        serving(blog.services["orchestrator"].app) as url,
    ):
        place = Place(blog, databases, url)
        error = told_error(await place.audit("--repair", "--yes", "--json"))
        assert "no saga retell-article" in error["happened"]
        assert "SAGABOX_SAGAS" in error["next_step"]
        assert place.article(article).hidden_by is not None
