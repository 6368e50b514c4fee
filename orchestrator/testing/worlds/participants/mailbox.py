"""The way of the messages by which participants answer later, and the troubles on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from orchestrator.handlers import reply_of
from orchestrator.machine.signals import Replied
from orchestrator.testing.virtual.timeline import Timeline
from orchestrator.testing.worlds.participants.participant import Participant
from orchestrator.testing.worlds.troubles import Sort, Troubles

Tell = Callable[[str, Replied], Awaitable[None]]
"""Tells the orchestrator the reply, of that run."""


class Mailbox:
    """Takes the messages from the participants' outboxes, and brings them to the orchestrator."""

    def __init__(self, timeline: Timeline, troubles: Troubles, tell: Tell) -> None:
        self._timeline = timeline
        self._troubles = troubles
        self._tell = tell
        self._copies: list[tuple[str, Replied]] = []

    def collect(self, participant: Participant) -> None:
        """Send what lies in its outbox."""
        for message in participant.take_replies():
            signal = Replied(message.command_id, reply_of(message), participant.name)
            if self._troubles.strikes(Sort.REPLY_LOST):
                continue
            # At once, since it may overtake the answer to the command's own delivery.
            self._timeline.after(0.0, partial(self._arrive, message.instance_id, signal))
            if self._troubles.strikes(Sort.AGAIN):
                self._copies.append((message.instance_id, signal))

    async def arrive_again(self) -> None:
        """Deliver copies of all sent messages, the last first."""
        while self._copies:
            await self._tell(*self._copies.pop())

    async def _arrive(self, saga_id: str, signal: Replied) -> None:
        await self._tell(saga_id, signal)
        if self._troubles.strikes(Sort.TWICE):
            await self._tell(saga_id, signal)
