"""What an exploration has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.machine.instance import Status, StepStatus
from orchestrator.testing.exploring.model.events import Event
from orchestrator.testing.exploring.model.promises import MEANINGS
from orchestrator.testing.exploring.walk.source import Played, pytest_source
from orchestrator.testing.exploring.walk.story import numbered
from outbox.replies import Outcome


class PromiseBroken(AssertionError):
    """A promise does not hold; the text is the story of how that comes. `violation` has it in
    parts."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.story)
        self.violation = violation


@dataclass(frozen=True, repr=False)
class Violation:
    """A promise that was broken, and a shortest way there.

    `promise` is one of P2, P3, P4, P5, order, end and total, or the name of an invariant; `problem`
    says in what it was broken; `trace` is what happened, one event after the other.
    """

    promise: str
    problem: str
    played: Played

    def __str__(self) -> str:
        return self.story

    def __repr__(self) -> str:
        return f"<Violation of {self.promise}: {self.problem}>"

    @property
    def trace(self) -> tuple[Event, ...]:
        """What happened."""
        return self.played.events

    @property
    def story(self) -> str:
        """The same for people: the promise, the problem, and numbered sentences."""
        meaning = f" ({MEANINGS[self.promise]})" if self.promise in MEANINGS else ""
        head = f"{self.played.saga} breaks {self.promise}{meaning}: {self.problem}. This happened:"
        return f"{head}\n{numbered(self.played.lines)}"

    def as_pytest(self, saga: str | None = None) -> str:
        """The source of a test module that plays exactly this, and fails as long as the promise is
        broken.

        `saga` says where the saga is to be imported from, as in "shop.sagas:checkout"; left out, it
        is the module in which its functions were written. Raises InvalidInput where the saga or an
        invariant has no name to be imported by.
        """
        return pytest_source(self.played, saga)


@dataclass(frozen=True)
class Covered:
    """How far a step was taken: the answers to its action and to its compensation that came to the
    orchestrator, and how the step stood then."""

    answers: frozenset[Outcome]
    undo_answers: frozenset[Outcome]
    statuses: frozenset[StepStatus]


@dataclass(frozen=True)
class Exploration:
    """What was seen, completely unless there is a violation.

    `worlds` counts the different states of everything (one that can do no more than another one is
    not counted beside it), `edges` the ways from one to another. `ends` are the statuses in which
    runs ended or were STUCK, and `covered` tells of each step.
    """

    worlds: int
    edges: int
    ends: frozenset[Status]
    covered: Mapping[str, Covered]
    violation: Violation | None = None

    def check(self) -> Exploration:
        """Itself, if every promise holds. Raises PromiseBroken, with the story, otherwise."""
        if self.violation is not None:
            raise PromiseBroken(self.violation)
        return self
