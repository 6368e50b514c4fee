"""`service.pending`: the commands whose answers come later, and what a person does about them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.clock import Clock
from outbox.database.pages import DEFAULT_LIMIT, Page
from outbox.inbox.handlers import Handlers
from outbox.inbox.pending.complete import FromJson, complete, drop
from outbox.inbox.pending.listing import PendingCommand, list_pending
from outbox.replies import Refused

log = logging.getLogger("outbox.inbox")

T = TypeVar("T")


class PendingCommands:
    """The pending commands of these handlers, for the persons who look after the service.

    Each method is a step in the caller's transaction. With a Session it is done at the return, with
    an AsyncSession its result is to be awaited. What a person does is a warning in the log, with
    the `actor` and the `reason`, and nowhere else; it raises what `service.complete` does.
    """

    def __init__(self, handlers: Handlers, clock: Clock) -> None:
        self._handlers = handlers
        self._clock = clock

    @overload
    def list(
        self, session: Session, *, limit: int = ..., cursor: str | None = ...
    ) -> Page[PendingCommand]: ...
    @overload
    def list(
        self, session: AsyncSession, *, limit: int = ..., cursor: str | None = ...
    ) -> Coroutine[Any, Any, Page[PendingCommand]]: ...
    def list(
        self,
        session: Session | AsyncSession,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Page[PendingCommand] | Coroutine[Any, Any, Page[PendingCommand]]:
        """What is pending, oldest first. Raises InvalidSelection for a bad limit or cursor."""
        consumer, now = self._handlers.consumer, self._clock.now()

        def listed(session: Session) -> Page[PendingCommand]:
            return list_pending(session, consumer, now, limit=limit, cursor=cursor)

        return _in(session, listed)

    @overload
    def complete(
        self, session: Session, command_id: str, value: Any, *, actor: str, reason: str
    ) -> None: ...
    @overload
    def complete(
        self, session: AsyncSession, command_id: str, value: Any, *, actor: str, reason: str
    ) -> Coroutine[Any, Any, None]: ...
    def complete(
        self,
        session: Session | AsyncSession,
        command_id: str,
        value: Any,
        *,
        actor: str,
        reason: str,
    ) -> Coroutine[Any, Any, None] | None:
        """Answer that it is done, with this value: JSON that is read as what the command declares.
        Raises InvalidMessage where it is not that, or this process has no handler for the command.
        """

        def completed(session: Session) -> None:
            complete(session, self._handlers, {command_id: FromJson(value)}, self._clock.now())
            _note("completes", command_id, actor, reason)

        return _in(session, completed)

    @overload
    def refuse(
        self, session: Session, command_id: str, code: str, *, actor: str, reason: str
    ) -> None: ...
    @overload
    def refuse(
        self, session: AsyncSession, command_id: str, code: str, *, actor: str, reason: str
    ) -> Coroutine[Any, Any, None]: ...
    def refuse(
        self,
        session: Session | AsyncSession,
        command_id: str,
        code: str,
        *,
        actor: str,
        reason: str,
    ) -> Coroutine[Any, Any, None] | None:
        """Answer "no", with that code and reason. What the handler wrote stays. Where the step has
        a compensation its run calls that; otherwise take it back in this transaction."""

        def refused(session: Session) -> None:
            answers = {command_id: Refused(code, reason)}
            complete(session, self._handlers, answers, self._clock.now())
            _note("refuses", command_id, actor, reason)

        return _in(session, refused)

    @overload
    def drop(self, session: Session, command_id: str, *, actor: str, reason: str) -> None: ...
    @overload
    def drop(
        self, session: AsyncSession, command_id: str, *, actor: str, reason: str
    ) -> Coroutine[Any, Any, None]: ...
    def drop(
        self, session: Session | AsyncSession, command_id: str, *, actor: str, reason: str
    ) -> Coroutine[Any, Any, None] | None:
        """Wait no longer: the answer is that it is not known whether the command took effect, with
        that reason. Its run turns back and undoes the step, or is stuck at it. Done also where
        there is no way to the sender."""

        def dropped(session: Session) -> None:
            drop(session, self._handlers.consumer, command_id, reason, self._clock.now())
            _note("drops", command_id, actor, reason)

        return _in(session, dropped)


def _in(
    session: Session | AsyncSession, work: Callable[[Session], T]
) -> T | Coroutine[Any, Any, T]:
    return session.run_sync(work) if isinstance(session, AsyncSession) else work(session)


def _note(does: str, command_id: str, actor: str, reason: str) -> None:
    fields = {"message_id": command_id, "actor": actor, "reason": reason}
    # A warning, and with all in its text: a server that sets up no log shows nothing else.
    log.warning("a person %s a pending command: %s, %r: %r", does, *fields.values(), extra=fields)
