"""The database's time, told between two questions to it by this machine's monotonic clock.

Timers are set and compared in it, so that nodes whose clocks differ agree, and a clock that jumps
fires nothing.
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
        """The database says that it is this time."""
        self._told = now
        self._at = self._clock.monotonic()

    def now(self) -> datetime:
        """The time of the database, as far as is known."""
        return self._told + timedelta(seconds=self._clock.monotonic() - self._at)

    def until(self, due: datetime) -> float:
        """Seconds from now until then, 0 where it is past."""
        return max(0.0, (due - self.now()).total_seconds())
