"""The network from the orchestrator to a participant, and the troubles on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from orchestrator.testing.virtual.timeline import Timeline, Wait
from orchestrator.testing.worlds.participants.effects import Place
from orchestrator.testing.worlds.troubles import Sort, Troubles
from outbox.replies import Outcome, Reply
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.wire.envelope import Envelope

Receive = Callable[[Sequence[Envelope]], Awaitable[list[Reply] | None]]
"""The end of a way: it gives the answers, or None where it died before it gave them."""

_LATENCY = 0.001
_HELD_UP = Reply(Outcome.TOO_BUSY, code="too-busy", reason="held up on its way", retry_after=60.0)


class Road:
    """A transport, as `Transport` promises, to a participant that receives by `receive`. `cancel`
    is told the run that an operator cancels."""

    def __init__(
        self,
        timeline: Timeline,
        receive: Receive,
        troubles: Troubles,
        timeout: float,
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self._timeline = timeline
        self._receive = receive
        self._troubles = troubles
        self._timeout = timeout
        self._cancel = cancel
        self._unheard: set[str] = set()
        self._held: dict[tuple[str, str], Envelope] = {}
        self._copies: list[Envelope] = []

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Bring the messages there, and the answers back."""
        await Wait(_LATENCY)
        for place in map(Place.of, envelopes):
            if self._troubles.strikes(Sort.CANCELLED, place.step, undo=place.is_undo):
                await self._cancel(place.saga_id)
        arriving = [it for it in envelopes if not self._hold_up(it)]
        self._copies += arriving if self._troubles.strikes(Sort.AGAIN) else []
        answers = await self._arrive(arriving) if arriving else []
        if answers is None:
            return await self._silence()
        new = {it.id for it in arriving} - self._unheard
        if new and self._troubles.strikes(Sort.ANSWER_LOST):
            self._unheard |= new
            return await self._silence()
        await Wait(_LATENCY)
        replies = iter(answers)
        there = {it.id for it in arriving}
        return Answered([next(replies) if it.id in there else _HELD_UP for it in envelopes])

    async def aclose(self) -> None:
        """Nothing is open."""

    async def arrive_again(self) -> None:
        """Deliver copies of all sent messages, the last first, and ignore the answers."""
        while self._copies:
            await self._receive([self._copies.pop()])

    async def _arrive(self, envelopes: Sequence[Envelope]) -> list[Reply] | None:
        replies = await self._receive(envelopes)
        if self._troubles.strikes(Sort.TWICE):
            await self._receive(envelopes)
        for place in map(Place.of, envelopes):
            held = self._held.get((place.saga_id, place.step))
            if held is not None and place.is_undo and replies is not None:
                del self._held[place.saga_id, place.step]
                await self._receive([held])
        return replies

    def _hold_up(self, envelope: Envelope) -> bool:
        place = Place.of(envelope)
        if place.is_undo:
            return False
        key = place.saga_id, place.step
        if key in self._held:
            return True
        if self._troubles.strikes(Sort.OVERTAKEN, place.step):
            self._held[key] = envelope
            return True
        return False

    async def _silence(self) -> Delivery:
        await Wait(self._timeout)
        return Unreachable("no answer in time", sent=True)
