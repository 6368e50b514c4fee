"""Requests and commands for one article that come at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from articles.contract import (
    ArticleDeleted,
    ArticleEdited,
    DeleteArticle,
    HideArticle,
)
from outbox.contract import StartSaga
from outbox.replies import Outcome
from tests.support.blog.blog import (
    Running,
    envelope,
    new_id,
)
from tests.support.databases.databases import Database, Kind
from tests.support.processes.waiting import until

T = TypeVar("T")
TIDES = {"title": "Tides", "body": "High and low.", "author": "Ada"}


async def _publish(articles: Running, **changes: str) -> str:
    answer = await articles.http.post("/articles", json=TIDES | changes)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["id"]
    return identifier


class _Jam:
    """Makes what wants to change an article at once meet at that article, not before or after."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def release(self, count: int, begin: Callable[[int], Awaitable[T]]) -> list[T]:
        """The results of `begin(0)`, `begin(1)` and so on, all of which wait for the article."""
        if self._database.kind is Kind.SQLITE:
            return await asyncio.gather(*map(begin, range(count)))
        engine = create_engine(self._database.sync_url, poolclass=NullPool)
        with engine.connect() as holder, engine.connect() as watcher:
            holder.execute(text("SELECT * FROM articles FOR UPDATE"))
            watcher.execution_options(isolation_level="AUTOCOMMIT")
            tasks = [asyncio.ensure_future(begin(number)) for number in range(count)]

            def all_wait() -> bool:
                waiting = watcher.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
                )
                return bool(waiting == count)

            await until(all_wait, what="all wait for the article")
            holder.rollback()
        return await asyncio.gather(*tasks)


@pytest.fixture
def jam(database: Database) -> _Jam:
    return _Jam(database)


async def test_of_edits_that_begin_from_one_version_at_once_one_is_kept(
    articles: Running, jam: _Jam
) -> None:
    path = f"/articles/{await _publish(articles)}"

    async def edit(number: int) -> httpx.Response:
        new = {"title": f"T{number}", "body": ""}
        return await articles.http.put(path, json=new, headers={"if-match": '"1"'})

    answers = await jam.release(4, edit)
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 3}
    (kept,) = (answer.json()["title"] for answer in answers if answer.is_success)
    assert (await articles.http.get(path)).json()["title"] == kept
    assert [event.version for event in await articles.outbox(ArticleEdited)] == [2]


async def test_deletions_that_are_asked_for_at_once_are_one(articles: Running, jam: _Jam) -> None:
    path = f"/articles/{await _publish(articles)}"
    answers = await jam.release(4, lambda _: articles.http.delete(path))
    assert {answer.status_code for answer in answers} == {202}
    (saga,) = {answer.json()["saga_id"] for answer in answers}
    assert [start.instance_id for start in await articles.outbox(StartSaga)] == [saga]


async def test_two_sagas_that_hide_one_article_at_once_are_told_apart(
    articles: Running, jam: _Jam
) -> None:
    identifier = await _publish(articles)

    async def hide(_: int) -> Outcome:
        command = envelope(HideArticle(identifier), saga=new_id())
        for _ in range(50):
            (reply,) = await articles.tell_all(command)
            if reply.outcome not in (Outcome.TOO_BUSY, Outcome.ONGOING):
                break
        return reply.outcome

    outcomes = await jam.release(3, hide)
    assert Counter(outcomes) == {Outcome.DONE: 1, Outcome.LOCKED: 2}


async def test_a_batch_of_commands_for_many_articles_keeps_them_apart(articles: Running) -> None:
    made = [await _publish(articles, title=f"T{number}") for number in range(6)]
    saga = new_id()
    await articles.http.put(f"/articles/{made[2]}/legal-hold", json={"reason": "case"})
    hidden = await articles.tell_all(*(envelope(HideArticle(it), saga=saga) for it in made))
    assert [reply.value["title"] for reply in hidden] == [f"T{number}" for number in range(6)]
    deleted = await articles.tell_all(
        *(envelope(DeleteArticle(it), saga=saga) for it in made[::-1])
    )
    codes = [reply.code for reply in deleted]
    assert codes == [None, None, None, "legal-hold", None, None]
    assert {event.article_id for event in await articles.outbox(ArticleDeleted)} == (
        set(made) - {made[2]}
    )
    (left,) = (await articles.http.get("/articles")).json()["items"]
    assert (left["id"], left["status"]) == (made[2], "deleting")
