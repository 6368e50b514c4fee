"""How often a request goes to the database: each time costs more than all else that it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event

from comments.article_events import ArticlePublished
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
    database = database_factory(articles_schema)
    # The lock that keeps the order of messages.
    locks = 1 if database.kind is Kind.POSTGRESQL else 0
    async with running(articles_app(database)) as articles:
        counted = _Counted(articles)
        new = {"title": "Tides", "body": "High and low.", "author": "Ada"}
        async with counted.at_most(2 + locks):
            path = (await counted.http.post("/articles", json=new)).headers["location"]
        async with counted.at_most(1):
            await counted.http.get(path)
        async with counted.at_most(1):
            await counted.http.get("/articles")
        async with counted.at_most(3 + locks):
            await counted.http.put(path, json=new, headers={"if-match": "*"})
        async with counted.at_most(2):
            await counted.http.put(f"{path}/legal-hold", json={"reason": "case"})
        async with counted.at_most(3 + locks):
            await counted.http.delete(path)
        async with counted.at_most(1):
            await counted.http.delete(path)


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
