"""Every way that a run can go: all orders of messages and timers, with a bounded number of faults.

It goes breadth first over the real machine, an abstract participant and a network that keeps no
order, so the first violation that it finds is a shortest one. What it looks for:

- P3  an action and its compensation never both stay in effect, and nothing takes effect twice
- P4  COMPLETED means every effect, COMPENSATED means none, and neither changes any more
- P5  never forward after backward; never a compensation once the point of no return happened
- order  a step is undone only when no step that came after it is in effect
- end  without further faults every run ends, or is STUCK
- total  the machine takes in whatever happens
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from orchestrator import machine as real_machine
from orchestrator.definition import Saga
from orchestrator.instance import Status
from tests.support.faults import Faults
from tests.support.participant import Participant
from tests.support.promises import Broken
from tests.support.world import Model, World

_OPEN = frozenset({Status.RUNNING, Status.COMPENSATING})


class TooManyWorlds(Exception):
    """The faults or the saga are too many for the walk to end soon."""


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and a shortest way there."""

    promise: str
    problem: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = (f"  {number}. {line}" for number, line in enumerate(self.trace, 1))
        return "\n".join((f"{self.promise}: {self.problem}, after", *lines))


@dataclass
class Report:
    """What was seen. `ends` are the statuses in which runs ended or were STUCK."""

    worlds: int = 0
    edges: int = 0
    ends: set[Status] = field(default_factory=set)
    violation: Violation | None = None


def explore(
    saga: Saga[Any],
    state: Any,
    faults: Faults,
    *,
    machine: ModuleType = real_machine,
    barrier: bool = True,
    at_most: int = 500_000,
) -> Report:
    """Walks through all worlds that a run of `saga` can reach, up to the first violation.

    `machine` and `barrier` are there to be broken. Raises TooManyWorlds above `at_most` of them.
    """
    walk = _Walk(Model(saga, machine), at_most)
    walk.run(state, Participant(barrier=barrier), faults)
    return walk.report


class _Walk:
    def __init__(self, model: Model, at_most: int) -> None:
        self._model = model
        self._at_most = at_most
        self._numbers: dict[World, int] = {}
        self._origins: list[tuple[int, str]] = []
        self._calm: list[list[int]] = []
        """Where each world gets without faults."""
        self.report = Report()

    def run(self, state: Any, participant: Participant, faults: Faults) -> None:
        here = -1
        try:
            first = self._model.first(state, participant, faults)
            self._number(first, -1, "the run starts")
            queue = deque([first])
            while queue:
                world = queue.popleft()
                here = self._numbers[world]
                self._expand(world, here, queue)
        except Broken as broken:
            self._violated(broken.promise, broken.problem, here)
        except TooManyWorlds:
            raise
        except Exception as error:
            self._violated("total", f"the machine raised {error!r}", here)
        else:
            self._check_ends()
        self.report.worlds = len(self._numbers)

    def _expand(self, world: World, here: int, queue: deque[World]) -> None:
        status = self._model.status(world)
        if status not in _OPEN:
            self.report.ends.add(status)
        calm = []
        for edge in self._model.edges(world):
            self.report.edges += 1
            known = len(self._numbers)
            there = self._number(edge.world, here, edge.label)
            if there == known:
                queue.append(edge.world)
            if not edge.is_fault and there != here:
                calm.append(there)
        self._calm.append(calm)

    def _number(self, world: World, origin: int, label: str) -> int:
        number = self._numbers.setdefault(world, len(self._origins))
        if number == len(self._origins):
            if number >= self._at_most:
                raise TooManyWorlds(f"there are more than {self._at_most}")
            self._origins.append((origin, label))
        return number

    def _check_ends(self) -> None:
        """Takes away, from the ends backwards, every world in which the run must end without
        further faults, whatever happens. What remains may go on for ever."""
        is_open = [self._model.status(world) in _OPEN for world in self._numbers]
        left = [len(calm) for calm in self._calm]
        origins: list[list[int]] = [[] for _ in is_open]
        for here, calm in enumerate(self._calm):
            for there in calm:
                origins[there].append(here)
            if is_open[here] and not calm:
                self._violated("end", "nothing can happen any more", here)
                return
        ending = [here for here, still in enumerate(is_open) if not still]
        ended = set(ending)
        while ending:
            for here in origins[ending.pop()]:
                left[here] -= 1
                if left[here] == 0 and here not in ended:
                    ended.add(here)
                    ending.append(here)
        for here in range(len(is_open)):
            if here not in ended:
                self._violated("end", "it may go on for ever", here)
                return

    def _violated(self, promise: str, problem: str, here: int) -> None:
        lines = []
        while here >= 0:
            here, line = self._origins[here]
            lines.append(line)
        self.report.violation = Violation(promise, problem, tuple(reversed(lines)))
