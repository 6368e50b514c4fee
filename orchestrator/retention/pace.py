"""How fast things are removed: small steps with pauses, smaller and longer ones where the database
is slow.

Pure: values to values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LARGEST = 500
"""Runs, or other things, that are removed in one step, at most."""
SMALLEST = 10
"""In one step at least, however slow the database is."""
_FIRST = 100
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Pace:
    """The size of the next step, and the pause before it in seconds.

    A step is to take a quarter of a second. The pause is three times what the last one took, so
    that the work takes a quarter of the time of one connection.
    """

    size: int = _FIRST
    pause: float = 0.0

    def after(self, seconds: float) -> Pace:
        """The pace after a step of this size that took so long."""
        if seconds > 2 * _WANTED:
            size = max(SMALLEST, self.size // 2)
        elif seconds < _WANTED:
            size = min(LARGEST, self.size + self.size // 2)
        else:
            size = self.size
        return Pace(size, min(_LONGEST_PAUSE, _RATIO * seconds))


def within(rows: Iterable[Any], most_bytes: int) -> list[Any]:
    """The first of these rows that have together, by their `size`, no more than so many bytes; one
    at least, if there is any."""
    found: list[Any] = []
    total = 0
    for row in rows:
        total += row.size
        if found and total > most_bytes:
            break
        found.append(row)
    return found


_WANTED = 0.25
_RATIO = 3.0
