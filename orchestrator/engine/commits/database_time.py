"""The database's time; between two questions to it, this machine's monotonic clock measures it.

Timers are set and compared in it, so that nodes with different clocks agree, and a clock that jumps
fires no timer.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from outbox.clock import Clock


class DatabaseTime:
    """`now()` after the last `told(...)`; before the first, this machine's own time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = clock.now()
        self._at = clock.monotonic()

    def told(self, now: datetime) -> None:
        """Note the time that the database tells."""
        self._told = now
        self._at = self._clock.monotonic()

    def now(self) -> datetime:
        """The time of the database, as far as is known."""
        return self._told + timedelta(seconds=self._clock.monotonic() - self._at)

    def until(self, due: datetime) -> float:
        """Seconds from now until then, 0 where it is past."""
        return max(0.0, (due - self.now()).total_seconds())
