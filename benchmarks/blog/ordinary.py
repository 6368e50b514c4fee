"""The command `sagabox` with ordinary handlers for what a deletion asks of the blog's services.
Each takes one message, reads and changes one article or thread, and answers: so people write them.

    python -m benchmarks.blog.ordinary serve articles --port 8001

The other handlers are the blog's own, each called with a list of one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

import articles.app
import articles.handlers
import comments.app
import comments.handlers
import outbox
from articles.contract import ArticleDeleted as Deleted
from articles.contract import ArticleHidden, ArticleRemoved, DeleteArticle, HideArticle
from articles.model import Article
from comments import threads
from comments.article_events import ArticleDeleted, ArticlePublished
from comments.contract import CloseThread, PurgeThread, ThreadClosed, ThreadPurged
from comments.model import Comment
from orchestrator.cli import main
from outbox.contract import SagaEnded
from outbox.inbox.handlers import Context
from outbox.messages import Message
from outbox.replies import Locked, Refused
from outbox.service.service import Service

_Lists = Callable[[Any, list[Any], list[Any]], Awaitable[list[Any]]]


def _of_articles(service: Service) -> None:
    clock = service.clock

    @service.on(HideArticle)
    async def hide(
        session: AsyncSession, command: HideArticle, context: Context
    ) -> ArticleHidden | Locked | Refused:
        article = await session.get_one(Article, command.article_id, with_for_update=True)
        return article.hide(context.correlation or "")

    @service.on(DeleteArticle)
    async def remove(
        session: AsyncSession, command: DeleteArticle, context: Context
    ) -> ArticleRemoved | Locked | Refused:
        article = await session.get_one(Article, command.article_id, with_for_update=True)
        now = clock.now()
        match article.delete(context.correlation or "", now):
            case Deleted() as event:
                outbox.add(session, event)
                return ArticleRemoved(now)
            case no:
                return no

    @service.on(SagaEnded)
    async def ended(session: AsyncSession, event: SagaEnded, _: Context) -> None:
        asked = select(Article).where(Article.deletion_saga == event.instance_id)
        for article in await session.scalars(asked.with_for_update()):
            article.deletion_ended(event.instance_id, event.status)


def _of_comments(service: Service) -> None:
    clock = service.clock

    @service.on(ArticlePublished)
    async def published(session: AsyncSession, event: ArticlePublished, _: Context) -> None:
        found = await threads.load_or_make(session, [event.article_id])
        found[event.article_id].heard(title=event.title, version=event.version)

    @service.on(ArticleDeleted)
    async def deleted(session: AsyncSession, event: ArticleDeleted, _: Context) -> None:
        found = await threads.load_or_make(session, [event.article_id])
        found[event.article_id].heard_of_deletion()

    @service.on(CloseThread)
    async def close(
        session: AsyncSession, command: CloseThread, context: Context
    ) -> ThreadClosed | Locked | Refused:
        article, saga = command.article_id, context.correlation or ""
        thread = (await threads.hold(session, [article]))[article]
        if (no := thread.close(saga)) is not None:
            return no
        shown = (Comment.article_id == article, Comment.archived_by.is_(None))
        archived = await session.scalars(
            update(Comment).where(*shown).values(archived_by=saga).returning(Comment.id)
        )
        return ThreadClosed(len(archived.all()))

    @service.on(PurgeThread)
    async def purge(
        session: AsyncSession, command: PurgeThread, context: Context
    ) -> ThreadPurged | Locked:
        article = command.article_id
        thread = (await threads.hold(session, [article]))[article]
        if (no := thread.purge(context.correlation or "", clock.now())) is not None:
            return no
        gone = await session.scalars(
            delete(Comment).where(Comment.article_id == article).returning(Comment.id)
        )
        return ThreadPurged(len(gone.all()))


class _OneByOne:
    """A service, to those that register handlers of lists. It leaves out the types that it has
    handlers for already."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known = {it.message_class for it in service.handlers}
        self.clock = service.clock

    def on_list(self, kind: type[Message]) -> Callable[[_Lists], _Lists]:
        def register(handle: _Lists) -> _Lists:
            async def one(session: Any, message: Any, context: Any) -> Any:
                return (await handle(session, [message], [context]))[0]

            if kind not in self._known:
                self._service.on(kind)(one)  # type: ignore[arg-type]  # commands and events alike
            return handle

        return register


def _ordinary(
    add_ordinary: Callable[[Service], None], add_handlers: Callable[[Any], None]
) -> Callable[[Service], None]:
    def add(service: Service) -> None:
        add_ordinary(service)
        add_handlers(_OneByOne(service))

    return add


ordinary_articles = _ordinary(_of_articles, articles.handlers.add_handlers)
"""What adds the handlers to articles."""
ordinary_comments = _ordinary(_of_comments, comments.handlers.add_handlers)
"""What adds the handlers to comments."""


if __name__ == "__main__":
    with (
        patch.object(articles.app, "add_handlers", ordinary_articles),
        patch.object(comments.app, "add_handlers", ordinary_comments),
    ):
        main(prog_name="sagabox")
