"""Transactions on the event loop: an asynchronous database, and handlers that are coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from outbox.crashpoints import crashpoint
from outbox.database.sqlalchemy_internals import await_
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Context, Handler
from outbox.inbox.transactions.terms import HandlerLate, Worked
from outbox.messages import Message
from outbox.replies import Reply

T = TypeVar("T")


class OnLoop:
    """Runs transactions in these sessions. `commit_within` is in seconds."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, commit_within: float) -> None:
        self._sessions = sessions
        self._commit_within = commit_within

    async def handle(self, work: Worked, *, connect_within: float) -> list[Reply | None]:
        """As `Runner.handle`."""
        async with self._sessions() as session:
            async with asyncio.timeout(connect_within):
                await session.connection()
            await session.run_sync(work.work, _Caller(session))
            try:
                async with asyncio.timeout(self._commit_within):
                    await session.commit()
            except Exception as error:
                raise work.judged(error) from error
        crashpoint("inbox: after commit, before reply")
        return work.replies

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """As `Runner.run`."""
        async with self._sessions.begin() as session:
            return await session.run_sync(function, *args)


class _Caller:
    """Calls handlers from within `run_sync`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __call__(
        self,
        handler: Handler,
        session: Session,
        messages: Sequence[Message],
        contexts: Sequence[Context],
        seconds: float,
    ) -> list[Reply]:
        replies: list[Reply] = await_(self._call(handler, messages, contexts, seconds))
        return replies

    async def _call(
        self,
        handler: Handler,
        messages: Sequence[Message],
        contexts: Sequence[Context],
        seconds: float,
    ) -> list[Reply]:
        try:
            async with asyncio.timeout(seconds) as time:
                return await handler(self._session, messages, contexts)
        except TimeoutError as error:
            if time.expired():
                raise HandlerLate(handler.name, seconds) from error
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Else it would end the caller that waits for the answer, as if that had been cancelled.
            raise RuntimeError(
                f"{handler.name} waited for something that others have cancelled"
            ) from error


def refuse_plain(handler: Handler) -> None:
    """Raises InvalidHandlers for a plain function: the loop would stand still while it works."""
    for name, is_async in handler.in_sessions:
        if not is_async:
            raise InvalidHandlers(
                f"the handler {name} is a plain function, and the database is asynchronous: "
                "while it works, nothing else of this process would",
                next_step=f"write async def {name}(session: AsyncSession, ...), or give the "
                "service an Engine (or a sessionmaker), so that its handlers run in threads",
            )
