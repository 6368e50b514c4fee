"""Decisions about pauses of destinations.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTED_AFTER = 60.0
"""Seconds without an answer after which a silence is stored, so that a restart does not end it; and
for which a process must have found none itself, before it pauses the destination."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a relay knows of a destination since its start: `gone` and `trouble` are the
    destination's last words, `silent_for` are the seconds since the first delivery without an
    answer, and `answers` says that the last one had an answer."""

    answers: bool = False
    silent_for: float | None = None
    trouble: str = ""
    gone: str | None = None


@dataclass(frozen=True, slots=True)
class Pausing:
    """The destination is paused, for that reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Noting:
    """Its silence is stored, which has lasted for so many seconds."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Its silence is over."""


Change = Pausing | Noting | Forgetting


def change(told: Told, silent_for: float | None, pause_after: float | None) -> Change | None:
    """What to store of a destination that is not paused. `silent_for` is how long its silence has
    lasted by the table; `pause_after` is how long it may, None for ever."""
    if told.gone is not None:
        return Pausing(f"it is gone: {told.gone}")
    if told.answers:
        return None if silent_for is None else Forgetting()
    if told.silent_for is None or told.silent_for < NOTED_AFTER or pause_after is None:
        return None
    if silent_for is None:
        return Noting(told.silent_for, told.trouble)
    if silent_for < pause_after:
        return None
    hours = silent_for / 3600
    return Pausing(f"it has given no answer for {hours:.1f} hours, the last time: {told.trouble}")
