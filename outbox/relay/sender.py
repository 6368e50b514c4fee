"""The sender of a round's messages to their destination, which also judges the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import assert_never

from outbox.clock import Clock
from outbox.relay.condition import Condition
from outbox.relay.ports import Gather, Within
from outbox.relay.settings import RelaySettings
from outbox.relay.verdicts import (
    SETTLED,
    Bury,
    Leave,
    Pending,
    Settle,
    Verdict,
    failed,
    judge,
    requests,
    streams,
    under,
)
from outbox.replies import Reply
from outbox.retry import OnExhaustion
from outbox.safe_text import fit
from outbox.tracing import Sending
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


@dataclass
class Round:
    """The outcome of one round: the verdict to write for each message, with its answer.

    `waiting` has the keys of which a message stays: no later message of theirs may be sent. `alone`
    tells that no other courier of the destination makes requests meanwhile.
    """

    verdicts: list[tuple[Pending, Verdict]] = field(default_factory=list)
    answers: dict[int, Reply | Accepted] = field(default_factory=dict)
    waiting: set[tuple[int, str]] = field(default_factory=set)
    stopped: bool = False
    alone: bool = False

    def judge(
        self, message: Pending, verdict: Verdict, reply: Reply | Accepted | None = None
    ) -> None:
        """Note the verdict on `message`."""
        self.verdicts.append((message, verdict))
        if reply is not None:
            self.answers[message.seq] = reply
        if not isinstance(verdict, Settle | Bury):
            self.waiting.add(message.key)

    @property
    def gone(self) -> frozenset[int]:
        """The `seq` of each message that leaves the outbox."""
        return frozenset(m.seq for m, it in self.verdicts if isinstance(it, Settle | Bury))


class Sender:
    """The sender of one courier. `usable()` gives the buckets that may be sent from now; `moved()`
    is called after each delivery, with or without an answer. If it `fills` requests, a second one
    leaves beside the first only with what the first has no room for."""

    def __init__(
        self,
        destination: str,
        transport: Transport,
        condition: Condition,
        *,
        clock: Clock,
        settings: RelaySettings,
        usable: Callable[[], Mapping[int, int]],
        chance: Callable[[], float],
        within: Within = asyncio.timeout,
        gather: Gather = asyncio.gather,
        fills: bool = False,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._destination = destination
        self._transport = transport
        self._condition = condition
        self._clock = clock
        self._settings = settings
        self._usable = usable
        self._chance = chance
        self._within = within
        self._gather = gather
        self._fills = fills
        self._moved = moved
        self.width = settings.width
        """How many requests of one round may be under way."""

    async def send(
        self,
        trials: Sequence[Pending],
        fresh: Sequence[Pending],
        *,
        alone: bool,
        waiting: Set[tuple[int, str]] = frozenset(),
    ) -> Round:
        """Send these; `trials` are the first messages of keys that rested. A trial without an
        answer does not count: its verdict is Leave. `alone` tells that no other courier makes
        requests meanwhile. Nothing is sent of the `waiting` keys."""
        result = Round(alone=alone, waiting=set(waiting))
        if alone:
            await self._send_with_care(result, [*trials, *fresh])
        else:
            await self._send_freely(result, trials, fresh)
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
            for stream in streams(part, self._width(len(part)))
        ]
        if len(sending) == 1:
            await sending[0]
        else:
            await self._gather(*sending)

    def _width(self, count: int) -> int:
        """How many requests with these messages may be under way."""
        return min(self.width, -(-count // self._settings.batch)) if self._fills else self.width

    async def _send_with_care(self, result: Round, messages: Sequence[Pending]) -> None:
        """Send after a failure: in small requests; each message that was under way then goes last
        and alone."""
        innocent, suspect = self._condition.in_order_of_trials(messages)
        position = 0
        while position < len(innocent) and not result.stopped:
            allowance = self._condition.allowance or self._settings.batch
            await self._send_stream(result, innocent[position : position + allowance], allowance)
            position += allowance
        await self._send_stream(result, suspect, 1)

    async def _send_stream(self, result: Round, messages: Sequence[Pending], most: int) -> None:
        settings = self._settings
        strictly = settings.on_exhaustion is OnExhaustion.BLOCK_KEY
        for batch in requests(
            messages, most=most, most_bytes=settings.batch_bytes, strictly=strictly
        ):
            await self._send_request(result, batch)
            if result.stopped:
                return

    async def _send_request(self, result: Round, batch: Sequence[Pending]) -> None:
        if result.waiting:
            batch = [message for message in batch if message.key not in result.waiting]
        if not {message.bucket for message in batch} <= self._usable().keys():
            result.stopped = True
        if not result.alone and self._condition.allowance is not None:
            result.stopped = True  # another courier got no answer meanwhile
        if result.stopped or not batch:
            return
        now, failures = self._clock.now(), self._condition.failures
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
                self._unanswered(result, batch, trouble, failures)
            case other:
                assert_never(other)

    async def _deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        with Sending(self._destination, envelopes) as sending:
            delivery = await self._answer_to(envelopes)
            if isinstance(delivery, Unreachable | Unacceptable):
                sending.failed(delivery.reason)
        return delivery

    async def _answer_to(self, envelopes: Sequence[Envelope]) -> Delivery:
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
        self._condition.answered(batch)
        for message in batch:
            result.judge(message, SETTLED, accepted)

    def _answered(self, result: Round, batch: Sequence[Pending], replies: Sequence[Reply]) -> None:
        self._condition.answered(batch)
        for message, reply in zip(batch, replies, strict=True):
            verdict = judge(message, reply, self._settings.retry, self._chance())
            result.judge(message, under(self._settings.on_exhaustion, message, verdict), reply)

    async def _divide(self, result: Round, batch: Sequence[Pending], reason: str) -> None:
        """Find the message for which the destination refused the whole request."""
        self._condition.answered()
        if len(batch) == 1:
            words = fit(f"the destination refuses it: {reason}")
            verdict = Bury(batch[0].attempts + 1, words)
            result.judge(batch[0], under(self._settings.on_exhaustion, batch[0], verdict))
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._send_request(result, half)

    def _unanswered(
        self, result: Round, batch: Sequence[Pending], trouble: Unreachable, failures_before: int
    ) -> None:
        """Judge a request without an answer: the destination's trouble and no message's fault,
        unless one that was alone, and may have arrived, silenced a destination that answered
        others."""
        result.stopped = True
        condition, message = self._condition, batch[0]
        is_alone = result.alone and len(batch) == 1
        if trouble.sent and is_alone and condition.suspects(message) and condition.answers_others:
            error = fit(f"the destination gave no answer to it alone: {trouble.reason}")
            verdict = failed(message, error, self._settings.retry, self._chance())
            result.judge(message, under(self._settings.on_exhaustion, message, verdict))
        condition.gave_no_answer(self, batch, trouble, failures_before)

    def blocked_for(self) -> float:
        """Seconds until a request may be made; 0 where it may be now."""
        return self._condition.blocked_for(self)
