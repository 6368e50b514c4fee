"""The handlers of articles: for the commands of sagas, and the ends of the sagas it asked for.

Each handler takes a list, reads all its articles in one statement, and lets each decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

import outbox
from articles.contract import (
    ArticleDeleted,
    ArticleHidden,
    ArticleReleased,
    ArticleRemoved,
    ArticleRetold,
    ArticleUnhidden,
    ConfirmDeletion,
    DeleteArticle,
    HideArticle,
    ReleaseArticle,
    RetellArticle,
    UnhideArticle,
)
from articles.model import Article, ArticleStatus
from outbox.contract import SagaEnded
from outbox.ids import is_id
from outbox.inbox.handlers import Context
from outbox.replies import Locked, Refused
from outbox.service.service import Service

A = TypeVar("A")
C = TypeVar(
    "C",
    HideArticle,
    UnhideArticle,
    DeleteArticle,
    ConfirmDeletion,
    ReleaseArticle,
    RetellArticle,
)
No = Locked | Refused


def _locking(column: InstrumentedAttribute[Any]) -> Select[Article]:
    """The articles with these values there, locked in one order for all transactions."""
    wanted = column.in_(bindparam("wanted", expanding=True))
    return select(Article).where(wanted).order_by(Article.id).with_for_update()


_BY_ID = _locking(Article.id)
_BY_SAGA = _locking(Article.deletion_saga)


def add_handlers(service: Service) -> None:
    """Let the service handle what it is sent."""
    clock = service.clock

    @service.on_list(HideArticle)
    async def hide(
        session: AsyncSession, commands: Sequence[HideArticle], contexts: Sequence[Context]
    ) -> list[ArticleHidden | No]:
        return await _each(session, commands, contexts, lambda it, by: it.hide(by.saga))

    @service.on_list(UnhideArticle)
    async def unhide(
        session: AsyncSession, commands: Sequence[UnhideArticle], contexts: Sequence[Context]
    ) -> list[ArticleUnhidden | No]:
        return await _each(session, commands, contexts, lambda it, by: it.unhide(by.saga))

    @service.on_list(DeleteArticle)
    async def delete(
        session: AsyncSession, commands: Sequence[DeleteArticle], contexts: Sequence[Context]
    ) -> list[ArticleRemoved | No]:
        now = clock.now()

        def act(article: Article, by: _By[DeleteArticle]) -> ArticleRemoved | No:
            match article.delete(by.saga, now):
                case ArticleDeleted() as event:
                    outbox.add(session, event, causation=by.id, correlation=by.saga)
                    return ArticleRemoved(now)
                case no:
                    return no

        return await _each(session, commands, contexts, act)

    @service.on_list(ConfirmDeletion)
    async def confirm(
        session: AsyncSession, commands: Sequence[ConfirmDeletion], contexts: Sequence[Context]
    ) -> list[ArticleRemoved | No]:
        return await _each(session, commands, contexts, lambda it, by: it.confirm_deletion())

    @service.on_list(ReleaseArticle)
    async def release(
        session: AsyncSession, commands: Sequence[ReleaseArticle], contexts: Sequence[Context]
    ) -> list[ArticleReleased | No]:
        def act(article: Article, by: _By[ReleaseArticle]) -> ArticleReleased | No:
            holder = by.command.holder
            if not is_id(holder):
                return Refused("invalid-holder", f"{holder!r} is not a saga's id")
            return article.release(holder)

        return await _each(session, commands, contexts, act)

    @service.on_list(RetellArticle)
    async def retell(
        session: AsyncSession, commands: Sequence[RetellArticle], contexts: Sequence[Context]
    ) -> list[ArticleRetold | No]:
        def act(article: Article, by: _By[RetellArticle]) -> ArticleRetold | No:
            outbox.add(session, article.retell(), causation=by.id, correlation=by.saga)
            return ArticleRetold(article.version, article.status is ArticleStatus.DELETED)

        return await _each(session, commands, contexts, act)

    @service.on_list(SagaEnded)
    async def ended(
        session: AsyncSession, events: Sequence[SagaEnded], _: Sequence[Context]
    ) -> list[None]:
        sagas = [event.instance_id for event in events if is_id(event.instance_id)]
        found = await session.scalars(_BY_SAGA, {"wanted": sagas})
        waiting = {article.deletion_saga: article for article in found}
        for event in events:
            if event.instance_id in waiting:
                waiting[event.instance_id].deletion_ended(event.instance_id, event.status)
        return [None] * len(events)


@dataclass(frozen=True)
class _By(Generic[C]):
    """One command, its id, and the saga that it belongs to."""

    command: C
    id: str
    saga: str


async def _each(
    session: AsyncSession,
    commands: Sequence[C],
    contexts: Sequence[Context],
    act: Callable[[Article, _By[C]], A | No],
) -> list[A | No]:
    """The answer of each article, or the reason why it is not asked."""
    wanted = sorted(filter(is_id, {command.article_id for command in commands}))
    found = {it.id: it for it in await session.scalars(_BY_ID, {"wanted": wanted})}
    answers: list[A | No] = []
    for command, context in zip(commands, contexts, strict=True):
        article, saga = found.get(command.article_id), context.correlation or ""
        if not is_id(saga):
            no = Refused("no-saga", "the command belongs to no saga that could hold an article")
            answers.append(no)
        elif article is None:
            answers.append(
                Refused("unknown-article", f"there is no article {command.article_id!r}")
            )
        else:
            answers.append(act(article, _By(command, context.id, saga)))
    return answers
