"""The circuit breaker of a destination: when it may be tried, and with how many messages.

Pure. Times are seconds on a monotonic clock, handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 15.0


@dataclass(frozen=True, slots=True)
class Silence:
    """The silence of a destination, which has given no answer to so many deliveries in a row: the
    first failed at `since`, the last for that `reason`, and the next may be tried at `until`."""

    since: float
    deliveries: int
    reason: str
    until: float


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state of a destination, by its last answers. A new breaker is closed: everything may be
    sent.

    `failures` counts the deliveries in a row that had no answer, the first of them at `since`;
    `blocked_until` is when the next may be tried. `allowance` is how many messages a request may
    hold, None for any number: after a failure the first request holds one. After a request that may
    have been received in part, later ones grow only by doubling, so that a message that kills its
    receiver is soon alone.
    """

    failures: int = 0
    since: float = 0.0
    blocked_until: float = 0.0
    allowance: int | None = None
    careful: bool = False

    def may_send(self, now: float) -> bool:
        """Whether a request may be made at all."""
        return now >= self.blocked_until

    @property
    def is_open(self) -> bool:
        """Whether the last delivery had no answer."""
        return self.failures > 0

    def without_answer(
        self, now: float, *, sent: bool, chance: float, retry_after: float | None = None
    ) -> Breaker:
        """The state after a delivery without an answer. `sent` tells whether it may have arrived,
        `chance` in [0, 1) spreads the pauses, `retry_after` is the destination's own wish."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        pause *= 0.5 + 0.5 * chance
        if retry_after is not None:
            pause = min(LONGEST_PAUSE, max(pause, retry_after))
        return Breaker(
            failures=self.failures + 1,
            since=self.since if self.is_open else now,
            blocked_until=now + pause,
            allowance=1,
            careful=self.careful or sent,
        )

    def answered(self, full: int) -> Breaker:
        """The state after an answer; `full` is what a request may hold in good times."""
        if self.allowance is None:
            return self
        grown = self.allowance * 2
        if not self.careful or grown >= full:
            return Breaker()
        return replace(self, failures=0, blocked_until=0.0, allowance=grown)
