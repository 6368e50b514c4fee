"""The condition of a destination, which its couriers share.

It knows whether the destination answers, and lets the couriers take their turns by that: side by
side while it answers, one alone after it gave no answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import inf

from outbox.clock import Clock
from outbox.destinations.pauses import Told
from outbox.relay.breaker import Breaker, Silence
from outbox.relay.verdicts import Pending
from outbox.safe_text import fit
from outbox.transports.base import Unreachable

log = logging.getLogger("outbox.relay")

_OTHERS_FIRST = 0.05
"""Seconds for which the courier of the last failure leaves the next try to the others."""


class Turn:
    """The turn of one courier. Entered, it tells whether no other courier has one meanwhile."""

    def __init__(self, enter: Callable[[], Awaitable[bool]], leave: Callable[[], None]) -> None:
        self._enter = enter
        self._leave = leave

    async def __aenter__(self) -> bool:
        return await self._enter()

    async def __aexit__(self, *_: object) -> None:
        self._leave()


class Condition:
    """The condition of one destination; `batch` is how many messages a request holds in good times.

    The breaker counts what gave no answer, the suspects are the keys that were under way then. A
    `pausable` one is paused as soon as the destination says that it is gone.
    """

    def __init__(
        self,
        destination: str,
        *,
        clock: Clock,
        batch: int,
        chance: Callable[[], float],
        event: Callable[[], asyncio.Event] = asyncio.Event,
        pausable: bool = False,
    ) -> None:
        self.failures = 0
        """Failures that the breaker has counted, since the start."""
        self.answers_others = False
        """Whether it has answered a request since the last failure."""
        self._destination = destination
        self._clock = clock
        self._batch = batch
        self._chance = chance
        self._event = event
        self._breaker = Breaker()
        self._last_trouble = ""
        # Without a watch, which resumes it, a destination that is gone is one that is down.
        self._pausable = pausable
        self._gone: str | None = None
        self._is_paused = False
        self._failed_last: object = None
        # In the order in which they are tried; the value means nothing.
        self._suspects: dict[tuple[int, str], None] = {}
        self._under_way = 0
        self._is_alone = False
        self._waiting: deque[asyncio.Event] = deque()

    @property
    def is_blocked(self) -> bool:
        """Whether the last request got no answer."""
        return self._breaker.is_open

    @property
    def silence(self) -> Silence | None:
        """The silence of the destination, in seconds of the clock's monotonic time; None unless the
        last request got no answer."""
        breaker = self._breaker
        if not breaker.is_open:
            return None
        return Silence(breaker.since, breaker.failures, self._last_trouble, breaker.blocked_until)

    @property
    def allowance(self) -> int | None:
        """How many messages a request may hold after a failure; None in good times."""
        return self._breaker.allowance

    def blocked_for(self, courier: object) -> float:
        """Seconds until that courier may make a request; 0 where it may now."""
        if self._is_paused:
            return inf
        until = self._breaker.blocked_until
        if courier is self._failed_last:
            # So that what it had under way is not all that the destination is ever asked.
            until += _OTHERS_FIRST
        return max(0.0, until - self._clock.monotonic())

    def in_order_of_trials(
        self, messages: Sequence[Pending]
    ) -> tuple[Sequence[Pending], Sequence[Pending]]:
        """The messages of which nothing is suspected, and the suspects in the order of their
        trials."""
        order = {key: place for place, key in enumerate(self._suspects)}
        innocent = [message for message in messages if message.key not in order]
        suspect = [message for message in messages if message.key in order]
        return innocent, sorted(suspect, key=lambda message: order[message.key])

    def suspects(self, message: Pending) -> bool:
        """Whether it was under way when the destination gave no answer."""
        return message.key in self._suspects

    # Pauses

    def told(self) -> Told:
        """What the destination has told since the start, or since it was resumed."""
        silence, now = self.silence, self._clock.monotonic()
        return Told(
            answers=self.answers_others,
            silent_for=None if silence is None else now - silence.since,
            trouble=self._last_trouble,
            gone=self._gone,
        )

    def pause(self, _reason: str) -> None:
        """Let no courier make a request from now on."""
        self._is_paused = True

    def resume(self) -> None:
        """Let the couriers make requests again; the silence before counts no more."""
        self._is_paused, self._gone = False, None
        self._breaker = Breaker()

    # Turns

    def turn(self) -> Turn:
        """A turn to make requests: in good times all couriers have theirs at once, after a failure
        one at a time."""
        return Turn(self._enter_in_turn, self._leave)

    async def _enter_in_turn(self) -> bool:
        if self._waiting or not self._has_room():
            place = self._event()
            self._waiting.append(place)
            try:
                await place.wait()
            except BaseException:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self._leave()
                raise
        else:
            self._enter()
        return self._is_alone

    def _has_room(self) -> bool:
        return not self._under_way if self.allowance is not None else not self._is_alone

    def _enter(self) -> None:
        self._under_way += 1
        self._is_alone = self.allowance is not None

    def _leave(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._is_alone = False
        while self._waiting and self._has_room():
            self._enter()
            self._waiting.popleft().set()

    # What the requests tell

    def answered(self, messages: Sequence[Pending] = ()) -> None:
        """Note an answer. None of these is a suspect any more."""
        self._breaker = self._breaker.answered(self._batch)
        self.answers_others = True
        if self._suspects:
            for message in messages:
                self._suspects.pop(message.key, None)

    def gave_no_answer(
        self,
        courier: object,
        messages: Sequence[Pending],
        trouble: Unreachable,
        failures_before: int,
    ) -> None:
        """Note that the courier's request with these got no answer; `failures_before` were counted
        when it began. Of requests that were under way together, the first counts."""
        if trouble.gone and self._pausable:
            self._gone, self._is_paused = trouble.reason, True
        if not self._breaker.is_open:
            log.warning("%s takes nothing: %s", self._destination, trouble.reason)
        if trouble.sent:
            for message in messages:
                # Last in the order of trials: the others get their chance to be answered first.
                self._suspects.pop(message.key, None)
                self._suspects[message.key] = None
        self.answers_others = False
        if failures_before != self.failures:
            return
        self.failures += 1
        self._failed_last = courier
        self._last_trouble = fit(trouble.reason)
        self._breaker = self._breaker.without_answer(
            self._clock.monotonic(),
            sent=trouble.sent,
            chance=self._chance(),
            retry_after=trouble.retry_after,
        )
