"""Crash points: named places where a test may let the process die.

`crashpoint("after deliver, before settle")` does nothing unless that name is armed. A child process
is armed by the environment: `SAGABOX_CRASH_AT="after deliver, before settle:3"` kills it with
SIGKILL at the third time it gets there. Within a test, `outbox.testing.crash_at` arms a name and
the point raises `Crash`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

ENVIRONMENT_VARIABLE = "SAGABOX_CRASH_AT"


class Crash(BaseException):
    """The stand-in for the death of the process. No `except Exception` catches it."""


def crashpoint(name: str) -> None:
    """Die here if `name` is armed and this is the chosen hit."""
    if _armed is not None:
        _armed(name)


def arm(trap: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Call `trap` with each name that is reached from now on; None disarms. Returns the trap armed
    before."""
    global _armed
    before, _armed = _armed, trap
    return before


def countdown(name: str, hit: int, die: Callable[[], None]) -> Callable[[str], None]:
    """A trap that calls `die` at the `hit`-th time (1 is the first) that `name` is reached."""
    remaining = hit

    def trap(reached: str) -> None:
        nonlocal remaining
        if reached == name:
            remaining -= 1
            if remaining == 0:
                die()

    return trap


def _from_environment() -> Callable[[str], None] | None:
    order = os.environ.get(ENVIRONMENT_VARIABLE)
    if not order:
        return None
    name, _, hit = order.rpartition(":")
    if not name or not re.fullmatch("[1-9][0-9]*", hit):
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE}={order!r} is not understood; write NAME:HIT, such as "
            "'after deliver, before settle:1'"
        )
    return countdown(name, int(hit), lambda: os.kill(os.getpid(), signal.SIGKILL))


_armed: Callable[[str], None] | None = _from_environment()
