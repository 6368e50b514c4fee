"""The runner of many histories, which makes a failing one as small as it can."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.testing.simulating.shapes import SHAPES, made_up
from orchestrator.testing.simulating.world import History, World
from orchestrator.testing.virtual.chances import Fault, Happened
from orchestrator.testing.virtual.storage import InMemory

T = TypeVar("T")

TWICE = 100
"""Of so many histories one is run twice, and must be the same."""
_TRIES = 400
_COLLECT = 50
_FEW = 10_000
"""More objects than an interpreter freezes by itself."""


@dataclass(frozen=True)
class Failure:
    """A history in which a promise did not hold, with the fewest faults that were found to do."""

    seed: int
    sagas: tuple[str, ...]
    promise: str
    problem: str
    faults: tuple[Happened, ...]
    trace: tuple[tuple[Any, ...], ...] = field(repr=False)

    @property
    def only(self) -> str:
        """The faults as `sagabox simulate --only` takes them."""
        return ",".join(f"{fault.name.lower()}:{number}" for fault, number in self.faults)

    def __str__(self) -> str:
        lines = [
            f"{self.promise}: {self.problem}",
            f"  seed {self.seed}, sagas {', '.join(self.sagas)}",
            f"  faults: {self.only or 'none'}",
            *(f"  {time:10.4f} s  {' '.join(map(str, what))}" for time, *what in self.trace),
        ]
        return "\n".join(lines)


class SimulationFailed(AssertionError):
    """A promise did not hold: the failure tells the shortest history that was found."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass
class Simulation:
    """The histories that were simulated, up to the first failure."""

    histories: int = 0
    twice: int = 0
    """The number of histories that were run twice."""
    faults: Counter[Fault] = field(default_factory=Counter)
    """How often each happened."""
    ends: Counter[Status] = field(default_factory=Counter)
    """The final statuses of the runs."""
    failure: Failure | None = None

    def check(self) -> None:
        """Raises SimulationFailed where a promise did not hold."""
        if self.failure is not None:
            raise SimulationFailed(self.failure)

    def take(self, history: History) -> None:
        """Count a history."""
        self.histories += 1
        self.faults.update(fault for fault, _ in history.faults)
        self.ends.update(history.ends)


def simulate(
    *sagas: Saga[Any], seeds: Iterable[int], faults: Collection[Fault] | None = None
) -> Simulation:
    """One history for each seed, of runs of these sagas; without any, of made-up ones.

    Each history has some of the kinds of `faults` (all, unless given), chosen by its seed. It ends
    at the first in which a promise does not hold, and makes that one as small as it can.
    """
    kinds = None if faults is None else frozenset(faults)
    result = Simulation()
    with _undisturbed():
        for seed in seeds:
            chosen = sagas or (made_up(seed % SHAPES),)
            history = happen(World(seed, chosen, InMemory, kinds=kinds))
            result.take(history)
            if result.histories % _COLLECT == 0:
                gc.collect()
            if history.broken is None and seed % TWICE == 0:
                result.twice += 1
                again = happen(World(seed, chosen, InMemory, kinds=kinds))
                if again.trace != history.trace:
                    raise AssertionError(
                        f"seed {seed} had two histories: something in it is random"
                    )
            if history.broken is not None:
                result.failure = _smallest(history, chosen, kinds)
                break
    return result


def replay(
    *sagas: Saga[Any],
    seed: int,
    faults: Collection[Fault] | None = None,
    only: Collection[Happened] | None = None,
) -> History:
    """The history of one seed; with `only`, no other faults happen than those."""
    chosen = sagas or (made_up(seed % SHAPES),)
    kinds = None if faults is None else frozenset(faults)
    with _undisturbed():
        return happen(
            World(
                seed,
                chosen,
                InMemory,
                kinds=kinds,
                only=None if only is None else frozenset(only),
            )
        )


def happen(world: World) -> History:
    """Run the history, without an event loop."""
    return _result_of(world.run())


def _result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise AssertionError(f"a virtual history waits for {waits_for!r}")


def _smallest(
    history: History, sagas: Sequence[Saga[Any]], kinds: frozenset[Fault] | None
) -> Failure:
    """Leave faults out, many at once and then one by one, as long as the same promise breaks."""
    assert history.broken is not None
    promise, seed = history.broken.promise, history.seed
    best, needed, tries = history, list(history.faults), 0
    size = len(needed)
    while size >= 1 and tries < _TRIES:
        kept = needed
        for part in _parts(needed, size):
            candidate = [it for it in kept if it not in part]
            tries += 1
            again = happen(World(seed, sagas, InMemory, kinds=kinds, only=frozenset(candidate)))
            if again.broken is not None and again.broken.promise == promise:
                best, kept = again, list(again.faults)
        size = size // 2 if len(kept) == len(needed) else min(size, len(kept))
        needed = kept
    assert best.broken is not None
    return Failure(
        seed,
        tuple(map(str, sagas)),
        best.broken.promise,
        best.broken.problem,
        tuple(best.faults),
        tuple(best.trace),
    )


def _parts(items: Sequence[Happened], size: int) -> Iterator[frozenset[Happened]]:
    for start in range(0, len(items), size):
        yield frozenset(items[start : start + size])


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A context without log lines, since trouble is on purpose here, and with rare collections of
    garbage."""
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    # Older objects are no garbage, and looking through them again and again takes long. Where the
    # caller has frozen objects already, all stay frozen, since they cannot be told apart.
    thaws = gc.get_freeze_count() < _FEW
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if thaws:
            gc.unfreeze()
        if collects:
            gc.enable()
