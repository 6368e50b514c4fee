"""The one place where time is read. Everything else is handed a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

# CLOCK_BOOTTIME goes on while the machine sleeps, so a lease cannot outlive a suspended laptop;
# it exists on Linux only.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """What time it is."""

    def now(self) -> datetime:
        """Wall-clock time, aware, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start. Never jumps; only differences mean something."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        if _BOOTTIME is not None:
            return time.clock_gettime(_BOOTTIME)
        return time.monotonic()
