"""The database's time; between two questions to it, this machine's monotonic clock measures it.

Timers are set and compared in it, so that nodes with different clocks agree, and a clock that jumps
fires no timer.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from outbox.clock import Clock

_JUMP = timedelta(seconds=1)
"""By how much the time goes back only if the database's own clock was set back: more than what its
answers are delayed by."""


class DatabaseTime:
    """`now()` after the last `told(...)`; before the first, this machine's own time.

    It lags behind the database's by the time that the last answer was on its way. One that was
    delayed for longer than the one before does not let it go back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = clock.now()
        self._at = clock.monotonic()
        self._last = datetime.min.replace(tzinfo=UTC)

    def told(self, now: datetime) -> None:
        """Note the time that the database tells."""
        self._told = now
        self._at = self._clock.monotonic()

    def now(self) -> datetime:
        """The time of the database, as far as is known."""
        now = self._told + timedelta(seconds=self._clock.monotonic() - self._at)
        if not now < self._last <= now + _JUMP:
            self._last = now
        return self._last

    def until(self, due: datetime) -> float:
        """Seconds from now until then, 0 where it is past."""
        return max(0.0, (due - self.now()).total_seconds())
