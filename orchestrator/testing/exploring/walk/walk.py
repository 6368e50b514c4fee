"""Breadth first through all that can happen, so that the first broken promise is a nearest one.

A state of the walk is a place and the faults that are left. Two reductions keep the walk small,
and neither loses a broken promise or makes the way to it longer:

- A run that is at a place with more faults left can do all that a run can which came there with
  fewer, and what is promised does not look at the faults. So a state that is covered by one that
  was met earlier, hence no farther from the start, is left out.
- Whether a run ends without further faults depends on the place alone, for what happens without
  faults takes none. So that is asked of places, not of states. What is pending is taken to be
  completed some time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.machine.instance import Status
from orchestrator.testing.exploring.model.events import Event, What
from orchestrator.testing.exploring.model.faults import FREE, Budget
from orchestrator.testing.exploring.model.model import Model
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.values import Edge
from outbox.replies import Outcome

OPEN = frozenset({Status.SCHEDULED, Status.RUNNING, Status.COMPENSATING})
"""How a run stands that must still go on by itself."""

Progress = Callable[[int, int], None]
"""Is told now and then how many states and edges there were so far."""

_EVERY = 20_000  # states between two calls of it


class TooManyStates(Exception):
    """There are more than `at_most`."""


@dataclass(frozen=True)
class Found:
    """A promise that does not hold, and a shortest way there: events, each with the place that it
    leads to (-1 where the last one itself breaks the promise)."""

    broken: Broken
    trace: tuple[tuple[Event, int], ...]


class Walk:
    """One walk. `states`, `edges` and `places` are what was seen of it."""

    def __init__(
        self, model: Model, budget: Budget, at_most: int, progress: Progress | None = None
    ) -> None:
        self._model = model
        self._budget = budget
        self._at_most = at_most
        self._progress = progress
        self._where: list[int] = []
        self._left: list[int] = []
        self._origins: list[tuple[int, Event]] = []
        self._queue: deque[int] = deque()
        self.edges = 0
        self.taken_in: set[Event] = set()
        """The answers that came to the orchestrator."""
        self.places: dict[int, int] = {}
        """Each place with the amounts of faults, as bits, with which everything was tried there."""

    @property
    def states(self) -> int:
        """How many different states there were, without those that others cover."""
        return len(self._where)

    def run(self, first: int, began: Event) -> Found | None:
        """Walks until there is nothing new, or a promise is broken; `began` led to the first place.
        Raises TooManyStates."""
        self._reach(first, self._budget.first, -1, began)
        found = self._broken_at(0)
        while self._queue and found is None:
            found = self._expand(self._queue.popleft())
        return found or self._endless()

    def _expand(self, here: int) -> Found | None:
        place, left = self._where[here], self._left[here]
        pay, places = self._budget.pay, self.places
        for group in (FREE, *self._budget.kinds(left)):
            for event, there, price, broken in self._model.edges(place, group):
                then = pay(left, price)
                if then < 0:
                    continue
                self.edges += 1
                if event.what is What.ANSWERED:
                    self.taken_in.add(event)
                if broken is not None:
                    return Found(broken, (*self._trace(here), (event, there)))
                if places.get(there, 0) >> then & 1:
                    continue
                self._reach(there, then, here, event)
                if (found := self._broken_at(len(self._where) - 1)) is not None:
                    return found
        return None

    def _reach(self, place: int, left: int, origin: int, event: Event) -> None:
        number = len(self._where)
        if number >= self._at_most:
            raise TooManyStates
        self.places[place] = self.places.get(place, 0) | self._budget.covered(left)
        self._where.append(place)
        self._left.append(left)
        self._origins.append((origin, event))
        self._queue.append(number)
        if self._progress is not None and number % _EVERY == 0:
            self._progress(number, self.edges)

    def _broken_at(self, state: int) -> Found | None:
        broken = self._model.broken(self._where[state])
        return None if broken is None else Found(broken, self._trace(state))

    def _endless(self) -> Found | None:
        """Takes away, from the ends backwards, every place from which all ways without further
        faults lead to an end. What remains may go on for ever."""
        numbers = {place: number for number, place in enumerate(self.places)}
        origins: list[list[int]] = [[] for _ in numbers]
        calm: list[int] = []
        ending: list[int] = []
        stopped: set[int] = set()
        for place, number in numbers.items():
            targets = [
                edge.place
                for edge in self._model.edges(place, FREE)
                if edge.place != place and not self._asks_again(place, edge)
            ]
            for there in targets:
                origins[numbers[there]].append(number)
            calm.append(len(targets))
            if self._model.status(place) not in OPEN:
                ending.append(number)
            elif not targets:
                stopped.add(place)
        if stopped:
            return self._never_ends(stopped, "nothing can happen any more")
        ended = set(ending)
        while ending:
            for number in origins[ending.pop()]:
                calm[number] -= 1
                if calm[number] == 0 and number not in ended:
                    ended.add(number)
                    ending.append(number)
        for_ever = {place for place, number in numbers.items() if number not in ended}
        return self._never_ends(for_ever, "it may go on for ever") if for_ever else None

    def _asks_again(self, place: int, edge: Edge) -> bool:
        """Whether a command finds that its answer still comes later. Since it comes in the end,
        that does not go on for ever; where nothing else can happen, it does."""
        event = edge.event
        return (
            event.what is What.ARRIVES
            and event.answer is Outcome.ONGOING
            and self._model.participant(place) is self._model.participant(edge.place)
        )

    def _never_ends(self, places: set[int], problem: str) -> Found:
        state = next(it for it, place in enumerate(self._where) if place in places)
        return Found(Broken("end", problem), self._trace(state))

    def _trace(self, state: int) -> tuple[tuple[Event, int], ...]:
        lines: list[tuple[Event, int]] = []
        while state >= 0:
            origin, event = self._origins[state]
            lines.append((event, self._where[state]))
            state = origin
        return tuple(reversed(lines))
