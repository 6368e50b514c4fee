"""A process of a participant: its inbox, and the calls that it makes."""

from __future__ import annotations

import asyncio

from outbox.clock import Clock
from outbox.inbox.answers import Answers
from outbox.inbox.handlers import Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.runners import Sessions

_STEP = 0.001
# Time is virtual there, and a debugger may hold a handler up.
_HOUR = 3600.0
_LIMITS = InboxLimits(transaction=_HOUR, lock=1.0, answer_within=3 * _HOUR)


class Process(Inbox):
    """The process of a service with these handlers, while it lives."""

    def __init__(self, handlers: Handlers, sessions: Sessions, clock: Clock) -> None:
        super().__init__(handlers, sessions, clock=clock, limits=_LIMITS)
        self.held = 0
        """How many of its calls are held up."""

    async def wait_for_calls(self, answers: Answers, began: float) -> None:
        """Wait until all calls have ended that are not held up."""
        while self.calls.taken > self.held:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_STEP)

    def is_calling(self, id: str) -> bool:
        """Whether it makes the call of that command."""
        return self.calls.is_made_here(id)

    async def give_up(self) -> None:
        """End its calls."""
        await self.calls.drain(until=asyncio.get_running_loop().time())
