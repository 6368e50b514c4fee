"""The time that each handler may take on the database of its inbox."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Engine

from outbox import sqlite
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Handler
from outbox.inbox.limits import HANDLER_SECONDS, InboxLimits

_ROOM_ON_SQLITE = 0.5
"""Seconds by which a handler ends before the writers that wait for it give up."""


@dataclass(frozen=True)
class HandlerTimes:
    """The time that handlers may take on one database, in seconds: `usual`, and at most `most`."""

    usual: float
    most: float | None = None

    @classmethod
    def on(cls, engine: Engine, limits: InboxLimits) -> HandlerTimes:
        """The times on that engine. Raises InvalidHandlers where the limit is above what SQLite
        allows."""
        busy = sqlite.busy_timeout(engine)
        if busy is None:
            return cls(limits.handler or HANDLER_SECONDS)
        most = max(busy - _ROOM_ON_SQLITE, busy / 2)
        if limits.handler is not None and limits.handler > most:
            raise _too_long("InboxLimits.handler", limits.handler, most, "lower the limit")
        return cls(limits.handler or min(HANDLER_SECONDS, most), most)

    def of(self, handler: Handler) -> float:
        """The time of that handler."""
        return self.usual if handler.timeout is None else handler.timeout

    def longest(self, handlers: Iterable[Handler]) -> float:
        """The time of the slowest of them, at least the usual one."""
        return max((self.of(each) for each in handlers), default=self.usual)

    def check(self, handler: Handler) -> None:
        """Raises InvalidHandlers where the handler was registered with a time that this database
        does not allow."""
        if self.most is not None and handler.timeout is not None and handler.timeout > self.most:
            what = f"the timeout of {handler.name}"
            step = "lower the timeout in on(...), or register what waits for others by outside(...)"
            raise _too_long(what, handler.timeout, self.most, step)


def _too_long(what: str, given: float, most: float, step: str) -> InvalidHandlers:
    return InvalidHandlers(
        f"{what} is {given:g} s, and on this SQLite database a handler may take {most:g} s: "
        "its other writers wait meanwhile, and give up at the busy timeout",
        next_step=f"{step}, or call outbox.sqlite.configure(engine, busy_timeout=...) right after "
        "the engine was made, before the service has it",
    )
