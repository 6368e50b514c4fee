"""The way between the orchestrator's processes and a participant, with its accidents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from orchestrator.machine.signals import Replied
from orchestrator.store import signal_rows
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.timeline import Timeline, Wait
from outbox.inbox.batches import order_key
from outbox.replies import Outcome, Reply
from outbox.transports.base import Accepted, Answered, Delivery, Unreachable
from outbox.wire.envelope import Envelope

LATEST = 30.0
"""Seconds after which nothing that was sent can still arrive."""

_PAUSE = 1.0
"""Seconds after which a consumer, or an outbox, tries again what it could not do."""
_GOES_ON = Reply(Outcome.ONGOING, code="ongoing", retry_after=1.0)
_TRIED_AGAIN = frozenset({Outcome.FAILED, Outcome.TOO_BUSY, Outcome.NOT_ATTEMPTED})

Tell = Callable[[str, str, str], Awaitable[bool]]
"""Leaves a signal (run, kind, payload), and wakes the processes; false where the database did not
take it."""


class Receiver(Protocol):
    """The other end."""

    away_until: float

    async def receive(
        self, envelopes: Sequence[Envelope], tell: Callable[[Envelope, Reply], None] | None = None
    ) -> list[Reply] | None:
        """The answers, or None where it died. `tell` sends those that are messages."""


class Post:
    """The way of the answers that are messages, with its accidents. `open` says how many are on
    their way."""

    def __init__(self, timeline: Timeline, chances: Chances, tell: Tell) -> None:
        self.open = 0
        self._timeline = timeline
        self._chances = chances
        self._tell = tell

    def send(
        self,
        participant: str,
        saga_id: str,
        command_id: str,
        reply: Reply,
        *,
        is_sure: bool = False,
    ) -> None:
        """Send an answer, which arrives once, twice, late or, unless it `is_sure` to, never."""
        if not is_sure and self._chances.fault(Fault.ANSWER_LOST):
            return
        kind, payload = signal_rows.dump(Replied(command_id, reply, participant))
        for _ in range(2 if self._chances.fault(Fault.DUPLICATE) else 1):
            late = self._chances.fault(Fault.DELAY)
            self._deliver(saga_id, kind, payload, when(self._chances) if late else 0.01)

    def _deliver(self, saga_id: str, kind: str, payload: str, after: float) -> None:
        async def deliver() -> None:
            if not await self._tell(saga_id, kind, payload):
                self._deliver(saga_id, kind, payload, _PAUSE)
            self.open -= 1

        self.open += 1
        self._timeline.after(after, deliver)


def when(chances: Chances) -> float:
    """Seconds until something that is late arrives: mostly soon, now and then when everything else
    is long over."""
    return 0.01 + LATEST * chances.number(Number.WHEN) ** 3


class Air:
    """The keys that are on their way from one process to one receiver; `overlaps(receiver_name,
    key)` is told of one that is in two requests at once."""

    def __init__(self, receiver_name: str, overlaps: Callable[[str, str], None]) -> None:
        self._name = receiver_name
        self._overlaps = overlaps
        self._keys: set[tuple[bool, str]] = set()

    @contextmanager
    def carrying(self, envelopes: Sequence[Envelope]) -> Iterator[None]:
        """Within the block these are on their way. A process that dies meanwhile has no other."""
        keys = {order_key(it) for it in envelopes}
        for _, key in keys & self._keys:
            self._overlaps(self._name, key)
        self._keys |= keys
        yield
        self._keys -= keys


class Way:
    """The transport of one process to one receiver, whose name is `receiver_name`. A request and an
    answer take `latency` seconds each, at least and at most; `overlaps` is as in `Air`."""

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        receiver_name: str,
        receiver: Receiver,
        timeout: float,
        post: Post,
        latency: tuple[float, float],
        overlaps: Callable[[str, str], None],
    ) -> None:
        self._timeline = timeline
        self._chances = chances
        self._name = receiver_name
        self._receiver = receiver
        self._timeout = timeout
        self._post = post
        self._latency = latency
        self._air = Air(receiver_name, overlaps)

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """As `Transport` promises."""
        with self._air.carrying(envelopes):
            return await self._delivered(envelopes)

    async def _delivered(self, envelopes: Sequence[Envelope]) -> Delivery:
        chances, timeline = self._chances, self._timeline
        await Wait(chances.between(Number.LATENCY, *self._latency))
        if all(it.reply_to is not None for it in envelopes) and chances.fault(Fault.ACCEPTED):
            return self._accept(envelopes)
        if self._receiver.away_until > timeline.now:
            return Unreachable("connection refused", sent=False)
        if chances.fault(Fault.DUPLICATE):
            self._later(envelopes)
        if chances.fault(Fault.REQUEST_LOST):
            return await self._silence()
        if chances.fault(Fault.DELAY):
            self._later(envelopes)
            return await self._silence()
        if chances.fault(Fault.OUTLASTS):
            # What it says in the end is told to the next copy only.
            self._later(envelopes)
            return Answered([_GOES_ON] * len(envelopes))
        replies = await self._receiver.receive(envelopes)
        if replies is None or chances.fault(Fault.ANSWER_LOST):
            return await self._silence()
        await Wait(chances.between(Number.LATENCY, *self._latency))
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

        self._timeline.after(when(self._chances), arrive)

    # A way that only takes messages

    def _accept(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Each message arrives by itself, so that they overtake each other, or never; one that a
        consumer cannot handle yet comes again until the answer is a message."""
        for envelope in envelopes:
            for _ in range(2 if self._chances.fault(Fault.DUPLICATE) else 1):
                if not self._chances.fault(Fault.REQUEST_LOST):
                    self._consume(envelope, when(self._chances))
        return Accepted()

    def _consume(self, envelope: Envelope, after: float) -> None:
        async def consume() -> None:
            away = self._receiver.away_until - self._timeline.now
            if away > 0:
                self._consume(envelope, away)
                return
            replies = await self._receiver.receive([envelope])
            if replies is None or replies[0].outcome in _TRIED_AGAIN:
                self._consume(envelope, _PAUSE)
                return
            assert envelope.correlation is not None, "it is a command of a run"
            self._post.send(self._name, envelope.correlation, envelope.id, replies[0])

        self._timeline.after(after, consume)
