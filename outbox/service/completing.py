"""`service.complete`: the answers to commands whose handlers returned Pending."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, overload

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from outbox.clock import Clock
from outbox.inbox.handlers import Handlers
from outbox.inbox.pending.complete import complete

Plain: TypeAlias = Session | scoped_session[Any]
Async: TypeAlias = AsyncSession | async_scoped_session[Any]


class Completing:
    """Completes the pending commands of these handlers.

    Called with a Session it is done at the return; with an AsyncSession its result is to be
    awaited. A scoped session is the session of its scope.
    """

    def __init__(self, handlers: Handlers, clock: Clock) -> None:
        self._handlers = handlers
        self._clock = clock

    @overload
    def __call__(self, session: Plain, command_id: str, answer: object) -> None: ...
    @overload
    def __call__(
        self, session: Async, command_id: str, answer: object
    ) -> Coroutine[Any, Any, None]: ...
    def __call__(
        self, session: Plain | Async, command_id: str, answer: object
    ) -> Coroutine[Any, Any, None] | None:
        """Answer the pending command of that id, if the session's transaction commits: a webhook, a
        person or a batch job knows it now. `answer` is the command's own value, Done or Refused.

        With Refused this code takes back, in the same transaction, what the handler wrote. Call it
        before locking rows of your own: an undo locks in that order.

        The same answer again changes nothing. Raises, before anything is written and so that the
        transaction can go on: NotPendingYet (ask again in a moment), TooLate (it was undone),
        AlreadyAnswered, CallUnderWay; InvalidMessage where the answer is not what the command
        promises; Unrouted where there is no way to the sender; NotInTransaction; IsolationRefused
        above READ COMMITTED.
        """
        return self.several(session, {command_id: answer})

    @overload
    def several(self, session: Plain, answers: Mapping[str, object]) -> None: ...
    @overload
    def several(
        self, session: Async, answers: Mapping[str, object]
    ) -> Coroutine[Any, Any, None]: ...
    def several(
        self, session: Plain | Async, answers: Mapping[str, object]
    ) -> Coroutine[Any, Any, None] | None:
        """Answer several, by their ids. A transaction that has several must give them at once, or
        two such transactions could wait for each other. Raises as a call does."""
        now = self._clock.now()
        target: Session | AsyncSession
        match session:
            case scoped_session() | async_scoped_session():
                target = session()
            case _:
                target = session
        if isinstance(target, AsyncSession):
            return target.run_sync(complete, self._handlers, answers, now)
        complete(target, self._handlers, answers, now)
        return None
