"""The handlers of comments: for the events of articles, and the commands of sagas on threads.

Each handler takes a list, and works on the whole list at once where SQL can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from comments import threads
from comments.article_events import ArticleDeleted, ArticleEdited, ArticlePublished
from comments.contract import (
    CloseThread,
    DiscardThread,
    PurgeThread,
    ReleaseThread,
    ReopenThread,
    ThreadClosed,
    ThreadPurged,
    ThreadReopened,
)
from comments.model import Thread
from outbox.errors import InvalidMessage
from outbox.ids import is_id
from outbox.inbox.handlers import Context
from outbox.replies import Locked, Refused
from outbox.service.service import Service


def add_handlers(service: Service) -> None:
    """Let the service handle what it is sent."""
    clock = service.clock

    @service.on_list(ArticlePublished)
    async def published(
        session: AsyncSession, events: Sequence[ArticlePublished], _: Sequence[Context]
    ) -> list[None]:
        return await _heard(session, events)

    @service.on_list(ArticleEdited)
    async def edited(
        session: AsyncSession, events: Sequence[ArticleEdited], _: Sequence[Context]
    ) -> list[None]:
        return await _heard(session, events)

    @service.on_list(ArticleDeleted)
    async def deleted(
        session: AsyncSession, events: Sequence[ArticleDeleted], _: Sequence[Context]
    ) -> list[None]:
        found = await threads.load_or_make(session, _articles_of(events))
        for event in events:
            found[event.article_id].heard_of_deletion()
        return [None] * len(events)

    @service.on_list(CloseThread)
    async def close(
        session: AsyncSession, commands: Sequence[CloseThread], contexts: Sequence[Context]
    ) -> list[ThreadClosed | Locked | Refused]:
        asked = _read(commands, contexts)
        await _each(session, asked, lambda it, by: it.close(by.saga))
        archived = await threads.archive(session, _places(asked))
        return [it.no or ThreadClosed(archived.get(it.article_id, 0)) for it in asked]

    @service.on_list(ReopenThread)
    async def reopen(
        session: AsyncSession, commands: Sequence[ReopenThread], contexts: Sequence[Context]
    ) -> list[ThreadReopened | Locked | Refused]:
        asked = _read(commands, contexts)
        await _each(session, asked, lambda it, by: it.reopen(by.saga))
        return await _restored(session, asked)

    @service.on_list(PurgeThread)
    async def purge(
        session: AsyncSession, commands: Sequence[PurgeThread], contexts: Sequence[Context]
    ) -> list[ThreadPurged | Locked | Refused]:
        asked, now = _read(commands, contexts), clock.now()
        await _each(session, asked, lambda it, by: it.purge(by.saga, now))
        return await _removed(session, asked)

    @service.on_list(ReleaseThread)
    async def release(
        session: AsyncSession, commands: Sequence[ReleaseThread], contexts: Sequence[Context]
    ) -> list[ThreadReopened | Locked | Refused]:
        asked = _read(commands, contexts)
        for each, command in zip(asked, commands, strict=True):
            if each.no is None and not is_id(command.holder):
                each.no = Refused("invalid-holder", f"{command.holder!r} is not a saga's id")
            each.saga = command.holder
        await _each(session, asked, lambda it, by: it.release(by.saga))
        return await _restored(session, asked)

    @service.on_list(DiscardThread)
    async def discard(
        session: AsyncSession, commands: Sequence[DiscardThread], contexts: Sequence[Context]
    ) -> list[ThreadPurged | Locked | Refused]:
        asked, now = _read(commands, contexts), clock.now()
        await _each(session, asked, lambda it, _: it.discard(now))
        return await _removed(session, asked)


@dataclass
class _Asked:
    """One command of `saga` for a thread, and the reason for its refusal, if it is refused."""

    article_id: str
    saga: str
    no: Locked | Refused | None = None


def _read(
    commands: Iterable[CloseThread | ReopenThread | PurgeThread | ReleaseThread | DiscardThread],
    contexts: Iterable[Context],
) -> list[_Asked]:
    asked = []
    for command, context in zip(commands, contexts, strict=True):
        each = _Asked(command.article_id, context.correlation or "")
        if not is_id(each.saga):
            each.no = Refused("no-saga", "the command belongs to no saga that could hold a thread")
        elif not is_id(each.article_id):
            each.no = Refused("invalid-article-id", f"{each.article_id!r} is not an article's id")
        asked.append(each)
    return asked


async def _each(
    session: AsyncSession,
    asked: Iterable[_Asked],
    act: Callable[[Thread, _Asked], Locked | Refused | None],
) -> None:
    """Lock the threads, and let each of them answer; a refusal is noted as `no`."""
    found = await threads.hold(session, _places(asked))
    for each in _open(asked):
        each.no = act(found[each.article_id], each)


async def _restored(
    session: AsyncSession, asked: Sequence[_Asked]
) -> list[ThreadReopened | Locked | Refused]:
    """Show the comments again that the sagas archived; the answer to each command."""
    tags = [(it.article_id, it.saga) for it in _open(asked)]
    restored = await threads.restore(session, tags)
    return [it.no or ThreadReopened(restored.pop((it.article_id, it.saga), 0)) for it in asked]


async def _removed(
    session: AsyncSession, asked: Sequence[_Asked]
) -> list[ThreadPurged | Locked | Refused]:
    """Delete the comments of the threads; the answer to each command."""
    removed = await threads.remove(session, _places(asked))
    return [it.no or ThreadPurged(removed.pop(it.article_id, 0)) for it in asked]


def _open(asked: Iterable[_Asked]) -> list[_Asked]:
    return [each for each in asked if each.no is None]


def _places(asked: Iterable[_Asked]) -> list[str]:
    return [each.article_id for each in _open(asked)]


async def _heard(
    session: AsyncSession, events: Sequence[ArticlePublished | ArticleEdited]
) -> list[None]:
    found = await threads.load_or_make(session, _articles_of(events))
    for event in events:
        found[event.article_id].heard(title=event.title, version=event.version)
    return [None] * len(events)


def _articles_of(
    events: Iterable[ArticlePublished | ArticleEdited | ArticleDeleted],
) -> list[str]:
    for event in events:
        if not is_id(event.article_id):
            raise InvalidMessage(
                f"{event.article_id!r} in {event.message_type} is not an article's id",
                next_step="send the id that articles gave to the article",
            )
    return [event.article_id for event in events]
