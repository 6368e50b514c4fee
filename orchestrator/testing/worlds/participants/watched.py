"""The handlers of a participant, each called under watch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handler, Handlers
from outbox.messages import Message
from outbox.replies import Reply


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
    """The handlers, each called under this watch, and with that `timeout` in seconds."""

    def __init__(self, handlers: Handlers, watch: Watch, *, timeout: float) -> None:
        super().__init__(handlers.consumer)
        for handler in handlers:
            fields = {it.name: getattr(handler, it.name) for it in dataclasses.fields(handler)}
            fields["timeout"] = timeout
            self._by_type[handler.type] = _WatchedHandler(**fields, watch=watch)

    def restrict(self, rule: Callable[[Handler], None]) -> None:
        """Nothing: no loop has to go on here while a handler works, and no writer waits for it."""
