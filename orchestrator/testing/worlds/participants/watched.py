"""The handlers of a participant, each called under watch."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.inbox.outside.registration import Outside
from outbox.inbox.outside.rules import Promise
from outbox.messages import Message
from outbox.replies import Reply

# A debugger may hold a handler up.
_HOUR = 3600.0


class Watch(Protocol):
    """What is told of each call."""

    def before(self, handler: Handler, contexts: Sequence[Context]) -> list[Reply] | None:
        """The answers where the handler is not to be called."""

    def after(
        self,
        session: Session,
        handler: Handler,
        contexts: Sequence[Context],
        replies: Sequence[Reply],
    ) -> None:
        """Called with the answers, in the transaction of the call. What it raises fails the
        call."""

    async def call(
        self, promise: Promise, context: Context, function: Callable[[], Awaitable[object]]
    ) -> object:
        """What a call to the outside comes to, of which that holds; `function` makes it. What this
        raises is what the call raises."""


@dataclass(frozen=True, slots=True)
class _WatchedOutside(Outside):
    def seconds_for(self, command: Message, kept: Any) -> float:
        """Long, since its time is virtual: the watch cuts it off."""
        return _HOUR


@dataclass(frozen=True, slots=True)
class _WatchedHandler(Handler):
    watch: Watch = field(kw_only=True)

    async def __call__(
        self, session: AsyncSession, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Reply]:
        replies = self.watch.before(self, contexts)
        if replies is None:
            replies = await Handler.__call__(self, session, messages, contexts)
            await session.run_sync(self.watch.after, self, contexts, replies)
        return replies

    def call_plain(
        self, session: Session, messages: Sequence[Message], contexts: Sequence[Context]
    ) -> list[Reply]:
        replies = self.watch.before(self, contexts)
        if replies is None:
            replies = Handler.call_plain(self, session, messages, contexts)
            self.watch.after(session, self, contexts, replies)
        return replies


class Watched(Handlers):
    """The handlers, each called under this watch, for as long as it takes."""

    def __init__(self, handlers: Handlers, watch: Watch) -> None:
        super().__init__(handlers.consumer)
        for handler in handlers:
            fields = _fields(handler) | {"timeout": _HOUR}
            if handler.outside is not None:
                fields["outside"] = _watched(handler.outside, watch)
            self._by_type[handler.type] = _WatchedHandler(**fields, watch=watch)

    def restrict(self, rule: Callable[[Handler], None]) -> None:
        """Nothing: no loop has to go on here while a handler works, and no writer waits for it."""


def _watched(outside: Outside, watch: Watch) -> Outside:
    async def call(command: Message, context: Context) -> object:
        async def function() -> object:
            if outside.is_async:
                return await outside.function(command, context)
            return await asyncio.to_thread(outside.function, command, context)

        promise = outside.promise_for(command, context.before)
        return await watch.call(promise, context, function)

    functools.update_wrapper(call, outside.function)
    return _WatchedOutside(**_fields(outside) | {"function": call, "is_async": True})


def _fields(of: Any) -> dict[str, Any]:
    return {it.name: getattr(of, it.name) for it in dataclasses.fields(of)}
