"""The time that a command may take, its waits included."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TimeUp(BaseException):
    """The time is up. No `Exception`: a library that retries must not take it for a failure."""


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raises TimeUp in the block after so many seconds; None: never. For the main thread alone."""
    if seconds is None:
        yield
        return

    def ring(_number: int, _frame: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    # A timer of 0 would never ring.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
