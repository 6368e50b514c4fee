"""The rate limit of each caller: so many requests a second for long, and some more at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

SECONDS_AT_ONCE = 2.0
"""The seconds' worth of requests that a silent caller may send at once."""
REMEMBERED = 4096
"""The most callers that are remembered; beyond it, the longest silent ones are forgotten."""

_ROUNDING = 1e-9


class Rates:
    """The token buckets of all callers: a request takes one token, and `rate` a second come back.

    With `rate` 0 there is no limit. Takes no more memory than `remembered` buckets of one number
    each; a caller that is forgotten begins with a full one.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, rate: float, remembered: int = REMEMBERED
    ) -> None:
        self._monotonic = monotonic
        self._interval = 1 / rate if rate > 0 else 0.0
        # However small the rate, a full bucket lets one request through.
        self._room = max(SECONDS_AT_ONCE, self._interval)
        self._remembered = remembered
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, caller: str) -> float:
        """Count one request of that caller. Returns 0 where it may pass, else the seconds until one
        may; a request that has to wait takes no token."""
        if not self._interval:
            return 0.0
        now = self._monotonic()
        full_at = max(now, self._full_at.get(caller, now)) + self._interval
        wait = full_at - now - self._room
        if wait <= _ROUNDING:
            wait = 0.0
            self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > self._remembered:
            self._full_at.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._full_at)
