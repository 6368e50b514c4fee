"""How often a request goes to the database: each time costs more than all else that it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event

from articles.contract import DeleteArticle, HideArticle
from comments.article_events import ArticlePublished
from comments.contract import CloseThread, PurgeThread
from outbox.replies import Outcome
from tests.support.blog.blog import (
    Running,
    articles_app,
    articles_schema,
    comments_app,
    comments_schema,
    new_id,
    running,
)
from tests.support.databases.databases import Kind
from tests.support.fixtures import DatabaseFactory

INBOX = 3
"""The ids with the limits, the watermark (since these ids are older than the clock says), and the
replies."""


class _Counted:
    """The statements that a service sends, the begin of a transaction on SQLite left out."""

    def __init__(self, service: Running) -> None:
        self.http = service.http
        self._statements: list[str] = []
        engine = service.chassis.database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            self._statements.append(statement)

    @asynccontextmanager
    async def at_most(self, count: int) -> AsyncIterator[None]:
        self._statements.clear()
        yield
        assert len(self._statements) <= count, "\n\n".join(self._statements)
        assert self._statements


async def test_requests_to_articles_take_few_round_trips(database_factory: DatabaseFactory) -> None:
    async with running(articles_app(database_factory(articles_schema))) as articles:
        counted = _Counted(articles)
        new = {"title": "Tides", "body": "High and low.", "author": "Ada"}
        async with counted.at_most(2):
            path = (await counted.http.post("/articles", json=new)).headers["location"]
        async with counted.at_most(1):
            await counted.http.get(path)
        async with counted.at_most(1):
            await counted.http.get("/articles")
        async with counted.at_most(3):
            await counted.http.put(path, json=new, headers={"if-match": "*"})
        async with counted.at_most(2):
            await counted.http.put(f"{path}/legal-hold", json={"reason": "case"})
        async with counted.at_most(3):
            await counted.http.delete(path)
        async with counted.at_most(1):
            await counted.http.delete(path)


async def test_commands_take_few_round_trips(database_factory: DatabaseFactory) -> None:
    async with running(articles_app(database_factory(articles_schema))) as articles:
        counted, saga = _Counted(articles), new_id()
        new = {"title": "Tides", "body": "High and low.", "author": "Ada"}
        other, article = [
            (await counted.http.post("/articles", json=new)).json()["id"] for _ in range(2)
        ]
        # The first one of a process also looks whether the database was restored.
        await articles.tell(HideArticle(other), saga=new_id())
        async with counted.at_most(2 + INBOX):
            assert (await articles.tell(HideArticle(article), saga=saga)).outcome is Outcome.DONE
        async with counted.at_most(2 + INBOX + 1):
            assert (await articles.tell(DeleteArticle(article), saga=saga)).outcome is Outcome.DONE


async def test_commands_on_threads_take_few_round_trips(database_factory: DatabaseFactory) -> None:
    database = database_factory(comments_schema)
    # Where there is no upsert that finds the row as it was committed last.
    looks = 0 if database.kind is Kind.POSTGRESQL else 1
    async with running(comments_app(database)) as comments:
        counted, article, saga = _Counted(comments), new_id(), new_id()
        await comments.tell(CloseThread(new_id()), saga=new_id())  # as above
        async with counted.at_most(3 + looks + INBOX):
            assert (await comments.tell(CloseThread(article), saga=saga)).outcome is Outcome.DONE
        async with counted.at_most(3 + looks + INBOX):
            assert (await comments.tell(PurgeThread(article), saga=saga)).outcome is Outcome.DONE


async def test_requests_to_comments_take_few_round_trips(database_factory: DatabaseFactory) -> None:
    database = database_factory(comments_schema)
    # The lock of the thread.
    locks = 1 if database.kind is Kind.POSTGRESQL else 0
    async with running(comments_app(database)) as comments:
        article = new_id()
        await comments.tell(ArticlePublished(article, "Tides", 1))
        counted = _Counted(comments)
        new = {"article_id": article, "author": "Bob", "content": "Well said."}
        async with counted.at_most(1 + locks):
            path = (await counted.http.post("/comments", json=new)).headers["location"]
        async with counted.at_most(1):
            await counted.http.get(path)
        async with counted.at_most(1):
            await counted.http.get(f"/comments?article_id={article}")
        async with counted.at_most(1):
            await counted.http.get(f"/threads/{article}")
        async with counted.at_most(1 + locks):
            await counted.http.put(path, json={"content": "Better said."})
        async with counted.at_most(1 + locks):
            await counted.http.delete(path)
