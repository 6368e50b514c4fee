"""Made-up sagas: every shape that a definition allows, from a number."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Step, WhenLocked, compensatable, pivot, retriable
from orchestrator.testing.virtual.chances import Chances, Number
from outbox.messages import Command
from outbox.retry import RetryPolicy

PARTICIPANTS = ("alpha", "beta")
SHAPES = 400
"""How many different numbers a simulation uses."""
_PLACES = 6


@dataclass(frozen=True)
class Errand:
    """The state of a made-up saga; `seen` counts the answers that it learned from."""

    subject: str
    seen: int = 0


@dataclass(frozen=True)
class Receipt:
    """The answer of a made-up action."""

    number: int


def note(errand: Errand, receipt: Receipt) -> Errand:
    """Count one more answer."""
    return replace(errand, seen=errand.seen + receipt.number)


def _command(name: str) -> type[Command[Any]]:
    verb, participant, place = name.split()

    class Declared(Command[Receipt], type=f"{participant}.{verb}-{place}.v1", key="subject"):
        pass

    Declared.__name__ = Declared.__qualname__ = f"{verb}{participant}{place}".title()
    return make_dataclass(
        Declared.__name__,
        [("subject", str)],
        bases=(Declared,),
        frozen=True,
        namespace={"__module__": __name__},
    )


_COMMANDS = {
    name: _command(name)
    for participant in PARTICIPANTS
    for place in range(_PLACES)
    for name in (f"do {participant} {place}", f"undo {participant} {place}")
}


@lru_cache(maxsize=1024)
def made_up(number: int) -> Saga[Errand]:
    """The saga of that number; most neighbours have another shape."""
    chances = Chances(number)
    undoable, has_pivot, after = _sizes(chances)
    steps: list[Step[Errand]] = []
    for place in range(undoable + has_pivot + after):
        if place < undoable:
            steps.append(_compensatable(chances, place, [it.name for it in steps]))
        elif place == undoable and has_pivot:
            steps.append(pivot(f"step {place}", _make(chances, "do", place), **_pace(chances)))
        else:
            before = [it.name for it in steps[undoable + has_pivot :]]
            steps.append(
                retriable(
                    f"step {place}",
                    _make(chances, "do", place),
                    after=_after(chances, before),
                    **_pace(chances),
                )
            )
    return Saga(
        name=f"made-up-{number}",
        version=1,
        state=Errand,
        key=lambda it: it.subject,
        steps=steps,
        one_active=chances.number(Number.SHAPE) < 0.5,
    )


def _sizes(chances: Chances) -> tuple[int, int, int]:
    while True:
        undoable = chances.below(Number.SHAPE, 4)
        has_pivot = chances.below(Number.SHAPE, 2)
        after = chances.below(Number.SHAPE, 3)
        if 0 < undoable + has_pivot + after <= _PLACES:
            return undoable, has_pivot, after


def _compensatable(chances: Chances, place: int, before: list[str]) -> Step[Errand]:
    participant = PARTICIPANTS[chances.below(Number.SHAPE, len(PARTICIPANTS))]
    learns = chances.number(Number.SHAPE) < 0.3
    return compensatable(
        f"step {place}",
        _maker(f"do {participant} {place}"),
        compensation=_maker(f"undo {participant} {place}"),
        on_reply=note if learns else None,
        after=_after(chances, before),
        when_locked=list(WhenLocked)[chances.below(Number.SHAPE, 2)],
        **_pace(chances),
    )


def _make(chances: Chances, verb: str, place: int) -> Any:
    return _maker(f"{verb} {PARTICIPANTS[chances.below(Number.SHAPE, len(PARTICIPANTS))]} {place}")


def _maker(name: str) -> Any:
    command: Any = _COMMANDS[name]
    return lambda it: command(it.subject)


def _after(chances: Chances, before: list[str]) -> list[str] | None:
    """The steps before a step: None for a list in a row, else any of the earlier ones, or none of
    them."""
    if chances.number(Number.SHAPE) < 0.5:
        return None
    return [name for name in before if chances.number(Number.SHAPE) < 0.5]


def _pace(chances: Chances) -> dict[str, Any]:
    return {
        "deadline": timedelta(seconds=(1.5, 4, 20, 120)[chances.below(Number.SHAPE, 4)]),
        "retry": RetryPolicy(
            first=0.2,
            ceiling=(1.0, 10.0)[chances.below(Number.SHAPE, 2)],
            attempts=(2, 4, 8)[chances.below(Number.SHAPE, 3)],
        ),
    }
