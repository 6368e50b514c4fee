"""The sender of a round's messages to their destination, which also judges the answers.

It remembers the state of the destination: the circuit breaker, and which messages were under way
when it stopped answering.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from outbox.clock import Clock
from outbox.relay.breaker import Breaker, Silence
from outbox.relay.ports import Gather, Within
from outbox.relay.round import Round
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import (
    Bury,
    Leave,
    Pending,
    Settle,
    failed,
    judge,
    requests,
    streams,
)
from outbox.replies import Reply
from outbox.safe_text import fit
from outbox.transports.base import (
    Accepted,
    Answered,
    Delivery,
    Transport,
    Unacceptable,
    Unreachable,
)
from outbox.wire.envelope import Envelope, sent_at

log = logging.getLogger("outbox.relay")


def sending_to(destination: str) -> str:
    """The purpose of a courier's rounds, for logs and for progress."""
    return f"send to {destination}"


class Sender:
    """The sender for one destination. `usable()` gives the buckets that may be sent from now;
    `moved()` is called after each delivery, with or without an answer."""

    def __init__(
        self,
        destination: str,
        transport: Transport,
        *,
        clock: Clock,
        settings: RelaySettings,
        usable: Callable[[], Mapping[int, int]],
        chance: Callable[[], float],
        within: Within = asyncio.timeout,
        gather: Gather = asyncio.gather,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.unanswered = 0
        """Requests that got no answer, since the start."""
        self._destination = destination
        self._transport = transport
        self._clock = clock
        self._settings = settings
        self._usable = usable
        self._chance = chance
        self._within = within
        self._gather = gather
        self._moved = moved
        self._breaker = Breaker()
        self._last_trouble = ""
        # In the order in which they are tried; the value means nothing.
        self._suspects: dict[tuple[int, str], None] = {}
        self._answered_since_failure = False

    @property
    def is_blocked(self) -> bool:
        """Whether the last request got no answer."""
        return self._breaker.is_open

    @property
    def silence(self) -> Silence | None:
        """The silence of the destination; None unless the last request got no answer."""
        breaker = self._breaker
        if not breaker.is_open:
            return None
        return Silence(breaker.since, breaker.failures, self._last_trouble, breaker.blocked_until)

    def blocked_for(self) -> float:
        """Seconds until a request may be made; 0 where it may be now."""
        return max(0.0, self._breaker.blocked_until - self._clock.monotonic())

    async def send(self, trials: Sequence[Pending], fresh: Sequence[Pending]) -> Round:
        """Send these; `trials` are the first messages of keys that rested. A trial without an
        answer does not count: its verdict is Leave."""
        result = Round()
        if self._breaker.allowance is None:
            await self._send_freely(result, trials, fresh)
        else:
            await self._send_with_care(result, [*trials, *fresh])
        judged = {message.seq for message, _ in result.verdicts}
        for message in trials:
            if message.seq not in judged:
                result.judge(message, Leave())
        return result

    async def _send_freely(
        self, result: Round, trials: Sequence[Pending], fresh: Sequence[Pending]
    ) -> None:
        # Messages that failed before go apart from the rest, which they would slow down again.
        sending = [
            self._send_stream(result, stream, self._settings.batch)
            for part in (trials, fresh)
            for stream in streams(part, self._settings.width)
        ]
        if len(sending) == 1:
            await sending[0]
        else:
            await self._gather(*sending)

    async def _send_with_care(self, result: Round, messages: Sequence[Pending]) -> None:
        """Send after a failure: in small requests; each message that was under way then goes last
        and alone."""
        innocent = [message for message in messages if message.key not in self._suspects]
        order = {key: place for place, key in enumerate(self._suspects)}
        suspect = sorted(
            (message for message in messages if message.key in order),
            key=lambda message: order[message.key],
        )
        position = 0
        while position < len(innocent) and not result.stopped:
            allowance = self._breaker.allowance or self._settings.batch
            await self._send_stream(result, innocent[position : position + allowance], allowance)
            position += allowance
        await self._send_stream(result, suspect, 1)

    async def _send_stream(self, result: Round, messages: Sequence[Pending], most: int) -> None:
        settings = self._settings
        for batch in requests(messages, most=most, most_bytes=settings.batch_bytes):
            await self._send_request(result, batch)
            if result.stopped:
                return

    async def _send_request(self, result: Round, batch: Sequence[Pending]) -> None:
        batch = [message for message in batch if message.key not in result.waiting]
        usable = self._usable()
        if not all(message.bucket in usable for message in batch):
            result.stopped = True
        if result.stopped or not batch:
            return
        now = self._clock.now()
        delivery = await self._deliver([sent_at(message.envelope, now) for message in batch])
        self._moved()
        match delivery:
            case Answered(replies):
                self._answered(result, batch, replies)
            case Accepted() as accepted:
                self._accepted(result, batch, accepted)
            case Unacceptable(reason):
                await self._divide(result, batch, reason)
            case Unreachable() as trouble:
                self._unanswered(result, batch, trouble)
            case other:
                assert_never(other)

    async def _deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        try:
            async with self._within(self._settings.delivery_timeout):
                delivery = await self._transport.deliver(envelopes)
        except TimeoutError:
            limit = self._settings.delivery_timeout
            return Unreachable(f"no answer within {limit} seconds", sent=True)
        except Exception as error:
            log.exception("the transport to %s broke its promise not to raise", self._destination)
            return Unreachable(f"{type(error).__name__}: {error}", sent=True)
        if isinstance(delivery, Answered) and len(delivery.replies) != len(envelopes):
            count = len(delivery.replies)
            return Unreachable(f"{count} replies to {len(envelopes)} messages", sent=True)
        return delivery

    def _accepted(self, result: Round, batch: Sequence[Pending], accepted: Accepted) -> None:
        """The transport delivers them from now on; an orchestrator that awaits an answer asks again
        by itself."""
        self._breaker = self._breaker.answered(self._settings.batch)
        self._answered_since_failure = True
        for message in batch:
            self._suspects.pop(message.key, None)
            result.judge(message, Settle(), accepted)

    def _answered(self, result: Round, batch: Sequence[Pending], replies: Sequence[Reply]) -> None:
        self._breaker = self._breaker.answered(self._settings.batch)
        self._answered_since_failure = True
        for message, reply in zip(batch, replies, strict=True):
            self._suspects.pop(message.key, None)
            verdict = judge(message, reply, self._settings.retry, self._chance())
            result.judge(message, verdict, reply)

    async def _divide(self, result: Round, batch: Sequence[Pending], reason: str) -> None:
        """Find the message for which the destination refused the whole request."""
        self._breaker = self._breaker.answered(self._settings.batch)
        if len(batch) == 1:
            words = fit(f"the destination refuses it: {reason}")
            verdict = Bury(batch[0].attempts + 1, words)
            result.judge(batch[0], verdict)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._send_request(result, half)

    def _unanswered(self, result: Round, batch: Sequence[Pending], trouble: Unreachable) -> None:
        """Judge a request without an answer: the destination's trouble and no message's fault,
        unless one that was alone, and may have arrived, silenced a destination that answered
        others."""
        result.stopped = True
        self.unanswered += 1
        if not self._breaker.is_open:
            log.warning("%s gives no answer: %s", self._destination, trouble.reason)
        if trouble.sent:
            if len(batch) == 1 and batch[0].key in self._suspects and self._answered_since_failure:
                error = fit(f"the destination gave no answer to it alone: {trouble.reason}")
                verdict = failed(batch[0], error, self._settings.retry, self._chance())
                result.judge(batch[0], verdict)
            for message in batch:
                # Last in the order of trials: the others get their chance to be answered first.
                self._suspects.pop(message.key, None)
                self._suspects[message.key] = None
        self._answered_since_failure = False
        self._last_trouble = fit(trouble.reason)
        self._breaker = self._breaker.without_answer(
            self._clock.monotonic(),
            sent=trouble.sent,
            chance=self._chance(),
            retry_after=trouble.retry_after,
        )
