"""The retry policy: when to try again, when to give up, and what becomes of what is given up."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OnExhaustion(enum.Enum):
    """The fate of a message that its relay gives up. It never blocks where it belongs to a saga: it
    is buried, and the run is told."""

    DEAD_LETTER_AND_CONTINUE = "dead_letter_and_continue"
    """It becomes a dead letter, and the later messages of its key go on."""
    BLOCK_KEY = "block_key"
    """It stays the first of its key, without more attempts, and the later ones wait until an
    operator redrives or drops it. A request then has one message of a key at most."""


@dataclass(frozen=True)
class RetryPolicy:
    """Pauses that grow from `first` by `factor` up to `ceiling` seconds, and end after `attempts`.

    Each pause is shortened by a random part of up to `jitter` of it (0 keeps it exact, 1 may take
    it all), so that messages that failed together do not come back together. Raises ValueError
    where the figures make no sense.
    """

    first: float = 0.5
    factor: float = 2.0
    ceiling: float = 60.0
    jitter: float = 0.5
    attempts: int = 12

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not 0 < self.first <= self.ceiling < float("inf"):
            raise ValueError(
                f"first={self.first} and ceiling={self.ceiling} are no pauses in seconds; "
                "choose 0 < first <= ceiling"
            )
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor={self.factor} lets the pauses shrink; choose 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter} is no part of a pause; choose 0 to 1")
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} would never try; choose 1 or more")

    def delay(self, attempt: int, chance: float) -> float | None:
        """Seconds to wait after the failure of that attempt (1 is the first); None: give up.

        `chance` in [0, 1) is the random part: 0 gives the whole pause.
        """
        if attempt < 1:
            raise ValueError(f"attempt={attempt}; attempts are counted from 1")
        if not 0 <= chance < 1:
            raise ValueError(f"chance={chance}; it must be in [0, 1)")
        if attempt >= self.attempts:
            return None
        return self._whole_pause(attempt) * (1 - self.jitter * chance)

    def _whole_pause(self, attempt: int) -> float:
        try:
            return min(self.ceiling, self.first * self.factor ** (attempt - 1))
        except OverflowError:  # a float ends at 2^1024, and `attempts` has no limit
            return self.ceiling
