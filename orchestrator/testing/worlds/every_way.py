"""Every way that a run of a saga can go, one after the other: the simplest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Kind
from orchestrator.machine.instance import Status
from orchestrator.testing.worlds.participants.completions import Answers, told
from orchestrator.testing.worlds.plan import How, When
from orchestrator.testing.worlds.world import World
from outbox.inbox.outside.registration import Outside

Arrange = Callable[[World], object]


@dataclass(frozen=True)
class Way:
    """One way of a run. `arrange` makes it happen in a world that has just begun; `ends` are the
    right ends, once the trouble is mended."""

    words: str
    arrange: Arrange
    ends: frozenset[Status] = frozenset({Status.COMPLETED, Status.COMPENSATED})

    def __str__(self) -> str:
        return self.words

    def also(self, words: str, arrange: Arrange) -> Way:
        """The same way, with this too."""

        def both(world: World) -> None:
            self.arrange(world)
            arrange(world)

        return Way(f"{words}, {self.words}", both, self.ends)


_COMPLETED: Sequence[tuple[str, When]] = (
    ("before its handler has committed, and again", "early"),
    ("before it is known to be pending", "at once"),
    ("twice", "twice"),
    ("after its deadline", "late"),
)

_CALLS: Mapping[How, str] = {
    "unanswered": "has its effect twice, and ends without an answer",
    "cut off": "has its effect, and is cut off at its timeout",
    "taken over": "is taken over by another process, and made late",
}

_AT_PARTICIPANTS = ("inbox:", "outbox:", "outside:")

FORWARD = Way("while nothing else goes wrong", lambda _: None)


def backward(saga: Saga[Any]) -> Way | None:
    """The way on which most is undone; None where no step has a compensation."""
    names = [step.name for step in saga.steps if step.kind is Kind.COMPENSATABLE]
    pivots = [step.name for step in saga.steps if step.kind is Kind.PIVOT]
    if not names:
        return None
    undone = frozenset({Status.COMPENSATED})
    if pivots:
        pivot = pivots[0]
        return Way(f"while step {pivot!r} is refused", partial(World.refuse, step=pivot), undone)
    last = names[-1]
    return Way(
        f"while a person cancels during step {last!r}", partial(World.cancel, step=last), undone
    )


def at_steps(saga: Saga[Any]) -> Iterator[Way]:
    """The ways by what can happen to each step."""
    for step in saga.steps:
        name = step.name
        if step.kind is not Kind.RETRIABLE:
            yield Way(
                f"step {name!r} is refused",
                partial(World.refuse, step=name),
                frozenset({Status.COMPENSATED}),
            )
    for step in saga.steps:
        name, words = step.name, f"step {step.name!r}"
        if step.kind is Kind.COMPENSATABLE:
            yield Way(f"a person cancels during {words}", partial(World.cancel, step=name))
            yield Way(
                f"{words} is overtaken by its compensation",
                partial(World.overtake, step=name),
                frozenset({Status.COMPENSATED}),
            )
        yield Way(f"{words} finds a lock", partial(World.lock, step=name))
        yield Way(
            f"the handler of {words} fails twice after its work",
            partial(World.fail, step=name, times=2),
        )
        yield Way(
            f"the handler of {words} fails for good after its work",
            partial(World.fail, step=name),
        )


def at_compensations(saga: Saga[Any], back: Way) -> Iterator[Way]:
    """The ways by what can happen to each compensation on the way back."""
    for name in saga.compensations:
        words = f"the compensation of step {name!r}"
        yield back.also(f"{words} finds a lock", partial(World.lock, step=name, undo=True))
        yield back.also(
            f"{words} fails for good after its work",
            partial(World.fail, step=name, undo=True),
        )


def at_pending(saga: Saga[Any], answers: Answers) -> Iterator[Way]:
    """The ways by how each pending action is completed."""
    for step in saga.steps:
        name, words = step.name, f"step {step.name!r}"
        known = answers.of(name, undo=False)
        for number in range(1, len(known)):
            yield Way(
                f"{words} is completed with {told(known[number])}",
                partial(World.answer_otherwise, step=name, number=number),
            )
        if known:
            for how, when in _COMPLETED:
                yield Way(
                    f"{words} is completed {how}", partial(World.answer, step=name, when=when)
                )
            if step.kind is Kind.COMPENSATABLE:
                yield Way(
                    f"a person cancels while {words} is pending, and it is completed too late",
                    partial(World.answer, step=name, when="too late"),
                    frozenset({Status.COMPENSATED}),
                )


def at_pending_compensations(saga: Saga[Any], answers: Answers, back: Way) -> Iterator[Way]:
    """The ways by how each pending compensation is completed on the way back."""
    for name in saga.compensations:
        words = f"the compensation of step {name!r} is completed"
        known = answers.of(name, undo=True)
        for number in range(1, len(known)):
            otherwise = partial(World.answer_otherwise, step=name, number=number, undo=True)
            yield back.also(f"{words} with {told(known[number])}", otherwise)
        if known:
            for how, when in _COMPLETED:
                arrange = partial(World.answer, step=name, when=when, undo=True)
                yield back.also(f"{words} {how}", arrange)


def at_calls(saga: Saga[Any], calls: Mapping[tuple[str, bool], Outside]) -> Iterator[Way]:
    """The ways by what can happen to the call of each action."""
    for step in saga.steps:
        name, words = step.name, f"the call of step {step.name!r}"
        if (name, False) not in calls:
            continue
        disturb = partial(World.disturb, step=name)
        undone = frozenset({Status.COMPENSATED})
        if step.kind is not Kind.RETRIABLE:
            yield Way(f"{words} is refused", partial(disturb, how="refused"), undone)
        for how in _CALLS:
            yield Way(f"{words} {_CALLS[how]}", partial(disturb, how=how))
        if step.kind is Kind.COMPENSATABLE:
            yield Way(
                f"a person cancels during {words}, which is cut off",
                partial(disturb, how="cancelled"),
                undone,
            )
            yield Way(f"{words} is made after its undo", partial(disturb, how="undone"), undone)


def at_calls_of_compensations(
    saga: Saga[Any], calls: Mapping[tuple[str, bool], Outside], back: Way
) -> Iterator[Way]:
    """The ways by what can happen to the call of each compensation."""
    for name in [it for it in saga.compensations if (it, True) in calls]:
        words = f"the call of the compensation of step {name!r}"
        refused = partial(World.disturb, step=name, how="refused", undo=True)
        yield back.also(f"{words} is refused", refused)
        for how in _CALLS:
            arrange = partial(World.disturb, step=name, how=how, undo=True)
            yield back.also(f"{words} {_CALLS[how]}", arrange)


def of_messages(base: Way, *, are_later: bool) -> Iterator[Way]:
    """The ways by what can happen to messages; `are_later` says that there are later answers."""
    yield base.also("every message arrives twice", World.duplicate)
    yield base.also("every message arrives again when all is over", World.arrive_again)
    yield base.also("the first answer to every message is lost", World.lose_answers)
    if are_later:
        yield base.also("every message with a later answer is lost", World.lose_replies)


def of_crashes(base: Way, points: Mapping[str, int]) -> Iterator[Way]:
    """The ways by a crash at each crash point, each time that it was reached."""
    for name, hits in sorted(points.items()):
        who = (
            "a participant"
            if name.startswith(("inbox:", "outbox:", "outside:"))
            else "the orchestrator"
        )
        for hit in range(1, hits + 1):
            yield base.also(
                f"{who} dies at {name!r}, time {hit} of {hits}",
                partial(World.crash_at, name=name, hit=hit),
            )
