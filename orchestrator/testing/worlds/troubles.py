"""What is to go wrong in a world: asked for by a test, and counted when it comes to pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from outbox.crashpoints import Crash


class Sort(Enum):
    """The kinds of trouble."""

    REFUSED = auto()
    """A participant says no, and its handler is not called."""
    FAILS = auto()
    """A handler does its work and raises an error then."""
    LOCKED = auto()
    """Another operation holds the entity."""
    CANCELLED = auto()
    """A person cancels the run when the command arrives."""
    OVERTAKEN = auto()
    """A command is held up on its way until its compensation was answered."""
    TWICE = auto()
    """Everything arrives, and arrives again before the first answer is there."""
    AGAIN = auto()
    """Copies of everything arrive when all is over, the last first."""
    ANSWER_LOST = auto()
    """Everything arrives, and its first answer does not."""
    REPLY_LOST = auto()
    """A message by which a participant answers later does not arrive."""
    ANSWERED_EARLY = auto()
    """A pending command is completed before its handler has committed, and again afterwards."""
    ANSWERED_AT_ONCE = auto()
    """It is completed before its sender hears that it is pending."""
    ANSWERED_TWICE = auto()
    """It is completed again, with each answer."""
    ANSWERED_LATE = auto()
    """It is completed after the deadline of its step."""
    ANSWERED_TOO_LATE = auto()
    """A person cancels the run meanwhile, and it is completed when all is over."""
    ANSWERED_OTHERWISE = auto()
    """It is completed with another answer than the usual one."""
    CALL_REFUSED = auto()
    """The provider says no, and the function that calls it is not called."""
    CALL_UNANSWERED = auto()
    """The function does its work, and ends without an answer then."""
    CALL_CUT_OFF = auto()
    """It does its work, and is cut off at its timeout."""
    CALL_CANCELLED = auto()
    """The same, and a person cancels the run meanwhile."""
    CALL_TAKEN_OVER = auto()
    """The process stands still before it calls the function, and does so when another process has
    made the call."""
    CALL_AFTER_UNDO = auto()
    """The process stands still, a person cancels the run, and it calls the function when that is
    undone."""
    CRASH = auto()
    """A process dies at a crash point."""


@dataclass(eq=False)
class Trouble:
    """One of them. `left` is how often it is still to come; None: each time. `number` is that of
    the other answer."""

    words: str
    left: int | None = None
    happened: int = 0
    number: int = 0

    def strikes(self) -> bool:
        """Whether it comes to pass now."""
        if self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        self.happened += 1
        return True


class NotReached(AssertionError):
    """A run ended without what was to go wrong in it. So a test cannot pass by missing it."""


class Troubles:
    """All that is to go wrong. `points` counts the crash points that were reached."""

    def __init__(self) -> None:
        self.points: Counter[str] = Counter()
        self.deaths = 0
        """How often a process died at a crash point."""
        self._by_place: dict[tuple[Sort, str, bool], Trouble] = {}
        self._crashes: dict[tuple[str, int], Trouble] = {}

    def add(
        self,
        sort: Sort,
        words: str,
        step: str = "",
        *,
        undo: bool = False,
        times: int | None = 1,
        number: int = 0,
    ) -> None:
        """Let this happen at that step, or with every message where no step is named."""
        self._by_place[sort, step, undo] = Trouble(words, times, number=number)

    def add_crash(self, name: str, hit: int) -> None:
        """Let a process die there, the `hit`-th time that the point is reached from now on."""
        count = self.points[name] + hit
        self._crashes[name, count] = Trouble(f"a process dies at {name!r}, time {hit}", 1)

    def strikes(self, sort: Sort, step: str = "", *, undo: bool = False) -> bool:
        """Whether that happens now."""
        return self.struck(sort, step, undo=undo) is not None

    def struck(self, sort: Sort, step: str = "", *, undo: bool = False) -> Trouble | None:
        """The trouble, if it happens now."""
        trouble = self._by_place.get((sort, step, undo))
        return trouble if trouble is not None and trouble.strikes() else None

    def trap(self, before: Callable[[str], None] | None) -> Callable[[str], None]:
        """For the crash points. `before` was armed already, and stays so."""

        def reached(name: str) -> None:
            self.points[name] += 1
            try:
                if before is not None:
                    before(name)
                crash = self._crashes.get((name, self.points[name]))
                if crash is not None and crash.strikes():
                    raise Crash(name)
            except Crash:
                self.deaths += 1
                raise

        return reached

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._by_place.clear()
        self._crashes.clear()

    def check(self) -> None:
        """Raises NotReached where something did not come to pass."""
        missed = [it.words for it in self._all() if not it.happened]
        if missed:
            raise NotReached(f"it was to go wrong, and never came to that: {'; '.join(missed)}")

    def _all(self) -> Iterator[Trouble]:
        yield from self._by_place.values()
        yield from self._crashes.values()
