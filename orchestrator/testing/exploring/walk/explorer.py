"""`explore` and `replay`: every way that a run can go, or one of them once more.

What is looked for:

- P2  a start takes effect once: no run that was removed begins again
- P3  an action and its compensation never both stay in effect, and nothing takes effect twice
- P4  COMPLETED means every effect, COMPENSATED means none, neither changes any more, and what is
      left when a person ends a run is listed
- P5  never forward after backward; never a compensation once the point of no return happened
- order  a step is undone only when no step that came after it is in effect
- end  without further faults every run ends, or is STUCK
- total  machine and saga take in all that happens
- and the invariants of the saga's author
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from orchestrator.definition.saga import Saga
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.machine import machine as real_machine
from orchestrator.machine.instance import StepStatus
from orchestrator.testing.exploring.model.events import Event, What
from orchestrator.testing.exploring.model.faults import FREE, KINDS, USUAL, Budget, Faults
from orchestrator.testing.exploring.model.model import Model
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.promises import Broken
from orchestrator.testing.exploring.model.retaining import Rule
from orchestrator.testing.exploring.model.view import Invariant
from orchestrator.testing.exploring.walk import story
from orchestrator.testing.exploring.walk.exploration import (
    Covered,
    Exploration,
    PromiseBroken,
    Violation,
)
from orchestrator.testing.exploring.walk.sampling import sample_input, sample_replies
from orchestrator.testing.exploring.walk.source import Played
from orchestrator.testing.exploring.walk.walk import OPEN, Found, Progress, TooManyStates, Walk
from outbox.errors import InvalidMessage
from outbox.replies import Outcome
from outbox.wire.codec import decode_value, encode_value

S = TypeVar("S")

AT_MOST = 1_000_000
"""How many worlds an exploration looks at unless its caller says otherwise: some minutes, and some
gigabytes."""


class TooManyWorlds(OrchestratorError):
    """The saga and the faults are too many for all their combinations to be tried."""


@dataclass(frozen=True)
class Rig:
    """What is explored apart from the saga. It is there to be broken: by a machine with a mistake,
    by participants without the barrier, by a retention without one of its rules."""

    machine: ModuleType = real_machine
    barrier: bool = True
    without: Rule | None = None


@dataclass(frozen=True)
class _Question:
    """What is asked, in the terms that a test can write down."""

    saga: Saga[Any]
    state: Any
    replies: dict[str, tuple[Any, ...]]
    invariants: tuple[Invariant, ...]
    rig: Rig
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        rig = self.rig
        model = Model(self.saga, rig.machine, self.replies, self.invariants, rig.without)
        object.__setattr__(self, "model", model)

    def first(self, began: Event) -> int:
        """The place to which the start of the run leads. Raises Broken."""
        later = began.what is What.SCHEDULED
        return self.model.first(self.state, Participant(barrier=self.rig.barrier), later=later)

    def violation(self, broken: Broken, trace: story.Trace) -> Violation:
        """The same with the story that leads there."""
        played = Played(
            saga=self.saga,
            input=encode_value(self.state),
            replies=self.replies,
            invariants=self.invariants,
            events=tuple(event for event, _ in trace),
            lines=story.told(self.model, trace),
            promise=broken.promise,
            problem=broken.problem,
        )
        return Violation(broken.promise, broken.problem, played)


def explore(
    saga: Saga[S],
    state: S | None = None,
    *,
    faults: Faults = USUAL,
    invariants: Iterable[Invariant] = (),
    replies: Mapping[str, Sequence[Any]] | None = None,
    at_most: int = AT_MOST,
    progress: Progress | None = None,
    rig: Rig | None = None,
) -> Exploration:
    """Goes through every way that a run of `saga` can go: all orders of its messages, timers and
    answers, with up to so many `faults` at any moment, until a promise is broken or nothing is
    left to try. The machine is the real one; participants and network are abstract.

    `state` is the run's input; left out, one is made up from the types of its fields. `replies`
    says, for a step, the values that its command may be answered with, each of which is tried;
    left out, one is made up. `invariants` are asked everywhere, beside the promises of the library.
    `progress` is told now and then how many worlds and edges there were.

    The violation that is found is one of the shortest. Raises InvalidInput where a state or a reply
    has to be given or does not fit, or an invariant says neither yes nor no; TooManyWorlds where
    there are more than `at_most`.
    """
    given = sample_input(saga) if state is None else state
    saga.accept(given)
    question = _Question(
        saga, given, sample_replies(saga, replies or {}), tuple(invariants), rig or Rig()
    )
    walk = Walk(question.model, Budget(faults), at_most, progress)
    began = Event(What.SCHEDULED if faults.later else What.STARTS)
    try:
        found = walk.run(question.first(began), began)
    except Broken as broken:
        found = Found(broken, ((began, -1),))
    except TooManyStates:
        raise TooManyWorlds(
            f"{saga} with these faults has more than {at_most:,} worlds",
            next_step="explore fewer faults at a time, or raise at_most (a million worlds take "
            "some minutes and gigabytes)",
        ) from None
    model = question.model
    return Exploration(
        worlds=walk.states,
        edges=walk.edges,
        ends=frozenset(map(model.status, walk.places)) - OPEN,
        covered=_covered(model, walk),
        violation=None if found is None else question.violation(found.broken, found.trace),
    )


def replay(
    saga: Saga[Any],
    input: Any,
    events: Iterable[Event],
    *,
    invariants: Iterable[Invariant] = (),
    replies: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Lets exactly this happen to a run of `saga`, and checks every promise and invariant at each
    moment, and at the last one also that the run ends. `input` and `replies` are JSON values.

    Where something of it cannot happen any more, the story is no longer possible, and that is well.
    Raises PromiseBroken where a promise does not hold; InvalidInput where the story is not about
    this saga.
    """
    try:
        state = decode_value(saga.state, input)
        given = {
            step: [saga.decode_reply(step, value) for value in values]
            for step, values in (replies or {}).items()
            if step in saga.actions
        }
    except InvalidMessage as error:
        raise InvalidInput(
            f"this is no story of {saga}: {error.problem}", next_step="explore the saga once more"
        ) from error
    known = {step.name for step in saga.steps}
    story_events = list(events)
    if story_events[:1] not in ([Event(What.STARTS)], [Event(What.SCHEDULED)]):
        raise InvalidInput(
            "a story begins with the start of its run",
            next_step="put Event(What.STARTS) or Event(What.SCHEDULED) first",
        )
    for step in (*(it.step for it in story_events if it.step is not None), *(replies or {})):
        if step not in known:
            raise InvalidInput(
                f"this story is about {step!r}, which is no step of {saga}",
                next_step="explore the saga once more",
            )
    question = _Question(saga, state, sample_replies(saga, given), tuple(invariants), Rig())
    _play(question, story_events)


def _play(question: _Question, events: list[Event]) -> None:
    model = question.model
    trace: list[tuple[Event, int]] = []
    try:
        place = question.first(events[0])
    except Broken as broken:
        raise PromiseBroken(question.violation(broken, ((events[0], -1),))) from None
    trace.append((events[0], place))
    for event in events[1:]:
        _require(question, model.broken(place), trace)
        edges = (edge for group in (FREE, *KINDS) for edge in model.edges(place, group))
        edge = next((it for it in edges if it.event == event), None)
        if edge is None:
            return
        place = edge.place
        trace.append((event, place))
        _require(question, edge.broken, trace)
    _require(question, model.broken(place), trace)
    rest = Walk(model, Budget(Faults()), AT_MOST).run(place, events[0])
    if rest is not None:
        raise PromiseBroken(question.violation(rest.broken, (*trace, *rest.trace[1:])))


def _require(question: _Question, broken: Broken | None, trace: story.Trace) -> None:
    if broken is not None:
        raise PromiseBroken(question.violation(broken, trace))


def _covered(model: Model, walk: Walk) -> dict[str, Covered]:
    answers: dict[tuple[str, bool], set[Outcome]] = {}
    for event in walk.taken_in:
        if event.step is not None and event.answer is not None and not event.void:
            answers.setdefault((event.step, event.undo), set()).add(event.answer)
    statuses: dict[str, set[StepStatus]] = {step.name: set() for step in model.saga.steps}
    for instance in {id(it): it for it in map(model.instance, walk.places)}.values():
        for name, run in instance.steps.items():
            statuses[name].add(run.status)
    return {
        name: Covered(
            frozenset(answers.get((name, False), ())),
            frozenset(answers.get((name, True), ())),
            frozenset(seen),
        )
        for name, seen in statuses.items()
    }
