"""One participant that is a plain HTTP service: an inbox of the orchestrator's takes its commands,
and makes the calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from orchestrator.definition.rest import RestCall, received
from orchestrator.rest_calls.base import Base
from orchestrator.rest_calls.calling import RestCalls, promised
from orchestrator.rest_calls.first_look import FirstLook
from orchestrator.rest_calls.http import Http
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.outside.registration import Outside
from outbox.runtime import Runtime


def handlers_for(name: str, base: Base, calls: Iterable[RestCall[object]], http: Http) -> Handlers:
    """The handlers of a participant of that name, for such calls."""
    handlers = Handlers(name)
    first, make = FirstLook(name), RestCalls(base, http)
    by_type = {str(it.message_type): it for it in calls}
    for call in by_type.values():
        # A world asks it whether what is in doubt can stay unknown.
        usual = replace(promised(call, None), keyed=call.probe is not None)
        outside = Outside(
            make, is_async=True, promise=usual, before=first, after=None, promised=promised
        )
        handlers.keep_outside(received(type(call)), outside)
    return handlers


class RestInbox(Inbox):
    """The inbox of such a participant. `counted` is told of the end of each call: its result in a
    word, and the seconds since it was stored."""

    counted: Callable[[str, float], None] | None = None

    def count_call(self, result: str, seconds: float) -> None:
        """As `Inbox`."""
        if self.counted is not None:
            self.counted(result, seconds)


class RestParticipant:
    """As `Neighbour`: a service of this process, whose work is to call another one over HTTP."""

    def __init__(
        self,
        handlers: Handlers,
        sessions: async_sessionmaker[AsyncSession],
        make_inbox: Callable[[Handlers, async_sessionmaker[AsyncSession]], RestInbox],
        http: Http,
        *,
        purge_interval: float,
    ) -> None:
        """`sessions` have an outbox installed whose source is this participant."""
        self.name = handlers.consumer
        self.inbox = make_inbox(handlers, sessions)
        self._http = http
        self._purge_interval = purge_interval
        self._runtime: Runtime | None = None

    @property
    def runs_here(self) -> bool:
        """As of `Neighbour`."""
        return self._runtime is not None and self._runtime.runs_here

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take commands and purge until the block ends; then the calls under way may end."""
        self._runtime = Runtime(self.inbox, purge_interval=self._purge_interval)
        try:
            async with self._runtime.running():
                yield
        finally:
            self._runtime = None
            await self._http.aclose()
