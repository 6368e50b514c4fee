"""How one address stands: usable, ejected, or a stranger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds for which an address that failed is not asked; the pause doubles from one to the
other."""


class State(Enum):
    """Whether an address is asked."""

    USABLE = "usable"
    """It is asked in its turn."""
    EJECTED = "ejected"
    """It failed, and is left out until a probe is answered."""
    STRANGER = "stranger"
    """It belongs to another database than the rest, and gets no message."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of one address. Times are seconds of a monotonic clock.

    `failures` counts those in a row; after a probe that was answered it stays until a message was
    answered, too, so that an address which answers only probes is asked less and less.
    """

    state: State = State.USABLE
    failures: int = 0
    until: float = 0.0
    reason: str = ""
    requests: int = 0

    def answered(self) -> Standing:
        """After an answer to messages."""
        if self.state is State.USABLE and not self.failures:
            return self
        return Standing(requests=self.requests)

    def probed(self) -> Standing:
        """After an answer to a probe."""
        return replace(self, state=State.USABLE, until=0.0)

    def failed(
        self, now: float, reason: str, chance: float, state: State = State.EJECTED
    ) -> Standing:
        """After a failure; `chance` in [0, 1) spreads the pauses."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        until = now + pause * (0.5 + 0.5 * chance)
        return replace(self, state=state, failures=self.failures + 1, until=until, reason=reason)

    def asked(self) -> Standing:
        """After a request was sent there."""
        return replace(self, requests=self.requests + 1)

    def is_due(self, now: float) -> bool:
        """Whether it may be probed."""
        return self.state is not State.USABLE and now >= self.until
