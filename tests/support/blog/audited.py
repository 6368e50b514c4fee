"""The three databases of the blog with all that a test puts into them, for the audit."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Table, delete, insert, update

import orchestrator.tables
from articles.model import Article
from comments.model import Comment, Known, Thread
from orchestrator.cli.audit.databases import addresses, opened
from orchestrator.cli.audit.looks import Findings, compare
from orchestrator.cli.audit.rules import of_the_blog
from outbox import tables
from tests.support.blog.blog import START, articles_schema, comments_schema, new_id
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.orchestrator.orchestrating import orchestrator_schema


class Audited:
    """Writes into the databases what no service would. Every id is a new one unless it is given."""

    def __init__(self, make_database: DatabaseFactory, make_engine: MakeSyncEngine) -> None:
        self.databases: Mapping[str, Database] = {
            "articles": make_database(articles_schema),
            "comments": make_database(comments_schema),
            "orchestrator": make_database(orchestrator_schema),
        }
        self.engines: Mapping[str, Engine] = {
            name: make_engine(database) for name, database in self.databases.items()
        }
        self._numbers = itertools.count(1)

    @property
    def urls(self) -> Mapping[str, str]:
        """The addresses, as the audit takes them."""
        return addresses({name: it.url for name, it in self.databases.items()})

    def article(self, *, thread: Mapping[str, Any] | None = None, **columns: Any) -> str:
        """A published article with an open thread; `thread` are other columns of that."""
        article_id = self.article_alone(**columns)
        self.thread(article_id, **(thread or {}))
        return article_id

    def article_alone(self, **columns: Any) -> str:
        """A published article that comments has not heard of."""
        usual = {
            "id": new_id(),
            "title": "a title",
            "body": "a text",
            "author": "me",
            "version": 1,
            "created_at": START,
            "updated_at": START,
        }
        self._add("articles", Article, usual | columns)
        return str((usual | columns)["id"])

    def tombstone(self, *, thread: Mapping[str, Any] | None = None) -> str:
        """A deleted article, as its saga left it, and its purged thread."""
        saga = new_id()
        gone = {"known": Known.DELETED, "closed_by": saga, "purged_at": START}
        return self.article(
            hidden_by=saga, deletion_saga=saga, deleted_at=START, thread=gone | dict(thread or {})
        )

    def change_article(self, article_id: str, **columns: Any) -> None:
        """Give the article other columns."""
        with self.engines["articles"].begin() as connection:
            connection.execute(update(Article).where(Article.id == article_id).values(**columns))

    def thread(self, article_id: str, **columns: Any) -> None:
        """An open thread."""
        usual = {
            "article_id": article_id,
            "known": Known.PUBLISHED,
            "title": "a title",
            "version": 1,
            "events": 1,
            "out_of_order": 0,
        }
        self._add("comments", Thread, usual | columns)

    def change_thread(self, article_id: str, **columns: Any) -> None:
        """Give the thread other columns."""
        with self.engines["comments"].begin() as connection:
            connection.execute(
                update(Thread).where(Thread.article_id == article_id).values(**columns)
            )

    def comment(self, article_id: str, archived_by: str | None = None) -> None:
        """A comment; its thread may be open, closed or missing."""
        row = {
            "id": new_id(),
            "article_id": article_id,
            "author": "me",
            "content": "hear, hear",
            "created_at": START,
            "updated_at": START,
            "archived_by": archived_by,
        }
        self._add("comments", Comment, row)

    def saga(self, key: str, *, id: str | None = None, ended: bool = False) -> str:
        """A run, by default one that has not ended."""
        row = {
            "id": id or new_id(),
            "shard": 0,
            "name": "delete-article",
            "version": 1,
            "key": key,
            "status": "COMPENSATED" if ended else "RUNNING",
            "paused": False,
            "state": "{}",
            "document": "{}",
            "revision": 1,
            "entries": 1,
            "created_at": START,
            "updated_at": START,
            "ended_at": START + timedelta(seconds=1) if ended else None,
        }
        self._add("orchestrator", orchestrator.tables.saga, row)
        return str(row["id"])

    def alias(self, saga_id: str | None) -> str:
        """A start that began no run of its own."""
        row = {"id": new_id(), "saga_id": saga_id, "made_at": START}
        self._add("orchestrator", orchestrator.tables.saga_alias, row)
        return str(row["id"])

    def signal(self, saga_id: str, kind: str = "start", answer: str | None = None) -> None:
        """Something that was told to a run and is not applied, unless it has an answer."""
        row = {
            "shard": 0,
            "saga_id": saga_id,
            "kind": kind,
            "payload": "{}",
            "made_at": START,
            "answer": answer,
        }
        self._add("orchestrator", orchestrator.tables.saga_signal, row)

    def message(
        self, service: str, id: str | None = None, table: Table = tables.outbox, **columns: Any
    ) -> None:
        """A message that waits in that table of the service's database."""
        row = {
            "id": id or new_id(),
            "destination": "elsewhere",
            "bucket": 0,
            "aggregatetype": "tests",
            "aggregateid": "key",
            "type": "tests.something.v1",
            "payload": "{}",
            "headers": "{}",
            "occurred_at": START,
        }
        if table is tables.outbox_parked:
            row["seq"] = next(self._numbers)
        self._add(service, table, row | columns)

    def hold(self, service: str, state: str = "waiting", id: str | None = None) -> None:
        """A message from a broker that the service could not handle."""
        row = {
            "consumer": service,
            "queue": service,
            "partition": 0,
            "undo_lane": False,
            "key": "key",
            "message_id": id or new_id(),
            "headers": "{}",
            "body": b"{}",
            "fingerprint": f"{state}{next(self._numbers)}".encode(),
            "state": state,
            "attempts": 1,
            "revision": 0,
            "last_error": "poison",
            "held_at": START,
        }
        self._add(service, tables.inbox_held, row)

    def deliver_all(self, service: str) -> None:
        """Take every message out of the service's outbox."""
        with self.engines[service].begin() as connection:
            connection.execute(delete(tables.outbox))

    def _add(self, service: str, table: Any, row: Mapping[str, Any]) -> None:
        with self.engines[service].begin() as connection:
            connection.execute(insert(table), [dict(row)])


async def _at_once(_: float) -> None:
    raise AssertionError("there was nothing to wait for")


async def look(
    blog: Audited, *, timeout: float = 60, pause: Callable[[float], Awaitable[None]] = _at_once
) -> Findings:
    """Audit it. `pause` is what happens while it waits for messages."""
    async with opened(blog.urls) as databases:
        return await compare(databases, of_the_blog(), timeout=timeout, pause=pause)


def codes(findings: Findings) -> list[tuple[str, str]]:
    """Which article has what."""
    return [(it.id, it.code) for it in findings.divergences]


def make_healthy(blog: Audited) -> None:
    """Everything that may be there while nothing is wrong."""
    commented = blog.article(version=3, thread={"version": 3})
    blog.comment(commented)
    blog.comment(commented)
    blog.tombstone()
    blog.tombstone(thread={"purged_at": None})
    blog.thread(new_id(), known=Known.UNKNOWN)  # a saga's mark, before anything was heard
    blog.article(thread={"version": 7})  # edited between the looks at the two databases
    saga = blog.saga(new_id(), ended=True)
    blog.alias(saga)
    busy = new_id()
    saga = blog.saga(busy)
    blog.article(id=busy, hidden_by=saga, deletion_saga=saga, thread={"closed_by": saga})
    blog.comment(busy, archived_by=saga)
