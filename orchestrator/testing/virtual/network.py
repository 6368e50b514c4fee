"""The way between the orchestrator's processes and a participant, with its accidents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.timeline import Timeline, Wait
from outbox.replies import Reply
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.wire.envelope import Envelope

LATEST = 30.0
"""Seconds after which nothing that was sent can still arrive."""


class Receiver(Protocol):
    """The other end."""

    away_until: float

    async def receive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        """The answers, or None where it died."""


class Way:
    """The transport to one receiver."""

    def __init__(
        self, timeline: Timeline, chances: Chances, receiver: Receiver, timeout: float
    ) -> None:
        self._timeline = timeline
        self._chances = chances
        self._receiver = receiver
        self._timeout = timeout

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """As `Transport` promises."""
        chances, timeline = self._chances, self._timeline
        await Wait(chances.between(Number.LATENCY, 0.0005, 0.01))
        if self._receiver.away_until > timeline.now:
            return Unreachable("connection refused", sent=False)
        if chances.fault(Fault.DUPLICATE):
            self._later(envelopes)
        if chances.fault(Fault.REQUEST_LOST):
            return await self._silence()
        if chances.fault(Fault.DELAY):
            self._later(envelopes)
            return await self._silence()
        replies = await self._receiver.receive(envelopes)
        if replies is None or chances.fault(Fault.ANSWER_LOST):
            return await self._silence()
        await Wait(chances.between(Number.LATENCY, 0.0005, 0.01))
        return Answered(replies)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _silence(self) -> Delivery:
        await Wait(self._timeout)
        return Unreachable("no answer in time", sent=True)

    def _later(self, envelopes: Sequence[Envelope]) -> None:
        copies = list(envelopes)

        async def arrive() -> None:
            await self._receiver.receive(copies)

        # Mostly soon, now and then when everything else is long over.
        luck = self._chances.number(Number.WHEN)
        self._timeline.after(0.01 + LATEST * luck**3, arrive)
