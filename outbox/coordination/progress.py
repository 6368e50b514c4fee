"""The progress of a process: which kinds of work are under way, and since when none has ended.

A clock tells whether a process that answers still gets anything done: a handler, a round of a
courier or a commit that hangs never ends. Each step costs the reading of a clock and two floats.

Pure: it is handed its clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

STUCK_AFTER = 60.0
"""Seconds for which work may go on while no work of its kind ends; twice the timeout of deliveries
where an operator made that longer.

It is above all bounds that work ends by itself under. A delivery takes 4.5 s at most, and SQLite
waits for 5 s. PostgreSQL ends a statement after 15 s and a transaction after 30 s, one that does
not answer is given up after 20 s, and a handler has 30 s; twice the longest of these leaves room
for a connection. Where a handler was given more time, twice that counts.
"""


class Work:
    """The work of one kind. `with work:` is around each piece of it; several may go on at once."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: float | None = None

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def is_idle(self) -> bool:
        """Whether no piece is under way that was begun since one ended."""
        return self._since is None

    @property
    def stalled_for(self) -> float:
        """Seconds since a piece was begun, or moved, after which none has ended; 0 where there is
        no such piece."""
        return 0.0 if self._since is None else max(0.0, self._monotonic() - self._since)

    def begin(self) -> None:
        """Begin a piece."""
        if self._since is None:
            self._since = self._monotonic()

    def moved(self) -> None:
        """Count a part of a piece that goes on as an end; a long piece calls this often."""
        if self._since is not None:
            self._since = self._monotonic()

    def end(self) -> None:
        """End a piece, also one that failed. Any begun before it are only slower than it."""
        self._since = None


@dataclass(frozen=True)
class Stuck:
    """Work of which nothing has ended for so many `seconds`."""

    kind: str
    seconds: float


class Progress:
    """The work of one process by its kinds, which say what is being done: "tend the leases".

    `monotonic` tells the seconds; `stuck_after` is how many of them are too many.
    """

    def __init__(self, monotonic: Callable[[], float], *, stuck_after: float = STUCK_AFTER) -> None:
        self._monotonic = monotonic
        self.stuck_after = stuck_after
        self._kinds: dict[str, Work] = {}
        self._may_take: dict[str, Callable[[], float]] = {}
        self.lost_leases = 0
        """Leases that the process held, and could not renew since they had expired."""

    def of(self, kind: str, *, may_take: Callable[[], float] | None = None) -> Work:
        """The work of this kind. Where a piece of it `may_take` more seconds than is usual, twice
        as many are too many."""
        if kind not in self._kinds:
            self._kinds[kind] = Work(self._monotonic)
        if may_take is not None:
            self._may_take[kind] = may_take
        return self._kinds[kind]

    def lose_leases(self, count: int) -> None:
        """Count leases that were lost."""
        self.lost_leases += count

    @property
    def stalled(self) -> Mapping[str, float]:
        """By kind, the seconds since work was begun, or moved, without an end; 0 without work."""
        return {kind: work.stalled_for for kind, work in self._kinds.items()}

    def stuck(self) -> Sequence[Stuck]:
        """The kinds that do not get on, the slowest first."""
        found = [Stuck(kind, it) for kind, it in self.stalled.items() if it > self._bound(kind)]
        return sorted(found, key=lambda it: (-it.seconds, it.kind))

    def _bound(self, kind: str) -> float:
        may_take = self._may_take.get(kind)
        return self.stuck_after if may_take is None else max(self.stuck_after, 2 * may_take())
