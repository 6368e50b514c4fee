"""One run of a saga, as values: the status of each step and the command whose answer it awaits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from outbox.replacing import quick
from outbox.replies import Progress, Reply

S = TypeVar("S")


class Status(StrEnum):
    """The status of a run."""

    SCHEDULED = "SCHEDULED"
    """To begin at its time; until then nothing is sent for it."""
    RUNNING = "RUNNING"
    """Going forward."""
    COMPENSATING = "COMPENSATING"
    """Being undone; it never goes forward again."""
    STUCK = "STUCK"
    """It needs an operator. Never the end, always visible."""
    COMPLETED = "COMPLETED"
    """Ended: every effect is there."""
    COMPENSATED = "COMPENSATED"
    """Ended: no effect is left."""
    RESOLVED = "RESOLVED"
    """Ended by an operator, who took care of the steps listed as not undone."""
    TERMINATED = "TERMINATED"
    """Ended by an operator without undoing anything; the steps in effect are listed."""

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.RESOLVED, Status.TERMINATED})


class Direction(StrEnum):
    """The direction of a run. It turns at most once."""

    FORWARD = "forward"
    BACKWARD = "backward"


class StepStatus(StrEnum):
    """The status of a step."""

    PENDING = "PENDING"
    """Nothing was sent."""
    SENT = "SENT"
    """Its command was sent; the answer is awaited."""
    IN_DOUBT = "IN_DOUBT"
    """Its command was sent, and whether it ran is unknown."""
    DONE = "DONE"
    """It is in effect."""
    REFUSED = "REFUSED"
    """The participant said no; it has no effect."""
    UNDOING = "UNDOING"
    """Its compensation was sent; the answer is awaited."""
    UNDONE = "UNDONE"
    """Its effect is gone, or never was."""
    SKIPPED = "SKIPPED"
    """An operator answered in the participant's place."""
    STUCK = "STUCK"
    """It cannot go on without an operator; the reason says why."""


class Wait(StrEnum):
    """What an awaited command waits for."""

    SENDING = "sending"
    """It is to be sent as soon as the run may send anything."""
    ANSWER = "answer"
    """It was sent; its answer is due."""
    ACCEPTED = "accepted"
    """It was sent, and the transport took it, or its answer comes later; any answer counts, and
    where none comes as a message the same command goes out again at its time."""
    REPEAT = "repeat"
    """Locked or ongoing: the same command goes out again at its time. A definite answer to a copy
    of it still counts."""
    ANEW = "anew"
    """It was answered for good without ending the step, so a new command goes out at its time. No
    other answer to this one counts."""


@quick
@dataclass(frozen=True, slots=True)
class Pended:
    """The last answer to a command whose answer comes later: the participant's note, and how far it
    is."""

    note: str
    progress: Progress


@quick
@dataclass(frozen=True, slots=True)
class Awaited:
    """A command whose answer is awaited, kept byte for byte: repeated, it is the same message.

    `deadline` is when a definite answer is overdue; None until it is sent, or sent again after
    its deadline. `sendings` counts how often it was sent, and `acceptances` how often it was
    accepted, by a transport or by a participant whose answer comes later. `undoes` is empty for an
    action. `due` is when it was sent first; None where code that knew no such time sent it.
    `pending` is set where the last answer to it says that the answer comes later. `action_ran` is
    set for a compensation where an action that it undoes reported success after it was sent.
    """

    id: str
    type: str
    key: str
    data: bytes
    undoes: tuple[str, ...] = ()
    wait: Wait = Wait.SENDING
    deadline: datetime | None = None
    sendings: int = 0
    due: datetime | None = None
    acceptances: int = 0
    pending: Pended | None = None
    action_ran: bool = False

    @property
    def is_undo(self) -> bool:
        """Whether it is a compensation."""
        return bool(self.undoes)


@dataclass(frozen=True, slots=True)
class Skipping:
    """A skip that waits until it is known whether the step's command ran: the `void` asks for that,
    and `result` (JSON) is what an operator gave in the participant's place."""

    void: Awaited
    result: Any = None


@quick
@dataclass(frozen=True, slots=True)
class StepRun:
    """The record of one step in one run.

    `action_ids` and `undo_ids` are the ids of all its commands, oldest first. `tries` counts the
    repetitions that the saga itself asked for since it was last told to go on. `kept` is an answer
    that the saga's own code could not take in. `notes` counts the lines about its latest command,
    also those left out of the history. `skip` is set while a skip is not concluded, and `void_ids`
    are the ids of all commands that asked for one. `done_ids` are those of `action_ids` whose
    success the run has accounted for: a compensation that undoes it would come after it. Code that
    had no such memory left it empty.
    """

    status: StepStatus = StepStatus.PENDING
    action_ids: tuple[str, ...] = ()
    undo_ids: tuple[str, ...] = ()
    awaited: Awaited | None = None
    tries: int = 0
    kept: Reply | None = None
    reason: str | None = None
    notes: int = 0
    skip: Skipping | None = None
    void_ids: tuple[str, ...] = ()
    done_ids: tuple[str, ...] = ()

    @property
    def attempts(self) -> int:
        """The number of its different commands, in both directions."""
        return len(self.action_ids) + len(self.undo_ids)

    @property
    def is_waiting(self) -> bool:
        """Whether it is under way, and the last answer says that the answer comes later."""
        under_way = self.status in {StepStatus.SENT, StepStatus.UNDOING}
        return under_way and self.awaited is not None and self.awaited.pending is not None

    @property
    def commands(self) -> tuple[Awaited, ...]:
        """The commands that are to be answered: the awaited one, and the void of a skip."""
        own = () if self.awaited is None else (self.awaited,)
        return own if self.skip is None else (*own, self.skip.void)

    @property
    def answer_counts(self) -> bool:
        """Whether an answer to the awaited command still decides anything."""
        return self.awaited is not None and self.awaited.wait is not Wait.ANEW and self.kept is None


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause for which a run turned back, or was ended by an operator.

    `code` is the participant's own where a step was refused, else one of `locked`, `deadline`,
    `dead-letter`, `cancelled`, `terminated`, `resolved`, or the word of an outcome.
    """

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class StrayEffect:
    """An effect that the run can neither undo nor account for: at that time the action with the id
    `command_id` reported success, and its step counted as undone, refused or passed over."""

    step: str
    command_id: str
    at: datetime


@quick
@dataclass(frozen=True, slots=True)
class Instance(Generic[S]):
    """One run. `ended` is its final status, once it has one; `not_undone` lists the steps whose
    effect an operator left in place or took care of by hand; `strays` counts answers to commands
    that it never sent. `begin_at` is when it is to begin, and stays where it ended before that;
    None once it has begun. `created_at` is when it began, and until then when it was asked for.
    `stray_effects` are for an operator to look at, oldest first, and may come after the end.
    """

    id: str
    saga: str
    version: int
    key: str
    state: S
    steps: Mapping[str, StepRun]
    created_at: datetime
    direction: Direction = Direction.FORWARD
    ended: Status | None = None
    paused: bool = False
    not_undone: tuple[str, ...] = ()
    strays: int = 0
    cause: Cause | None = None
    begin_at: datetime | None = None
    stray_effects: tuple[StrayEffect, ...] = ()

    @property
    def status(self) -> Status:
        """The status of the run."""
        if self.ended is not None:
            return self.ended
        if self.begin_at is not None:
            return Status.SCHEDULED
        if any(run.status is StepStatus.STUCK for run in self.steps.values()):
            return Status.STUCK
        if self.direction is Direction.FORWARD:
            return Status.RUNNING
        return Status.COMPENSATING

    @property
    def awaited_ids(self) -> frozenset[str]:
        """The ids of the commands whose answers advance this run."""
        return frozenset(
            run.awaited.id
            for run in self.steps.values()
            if run.awaited is not None and run.answer_counts
        )

    def step_awaiting(self, command_id: str) -> str | None:
        """The step whose awaited command has that id."""
        for name, run in self.steps.items():
            if run.awaited is not None and run.awaited.id == command_id:
                return name
        return None

    def step_skipped_by(self, command_id: str) -> str | None:
        """The step whose skip waits for the answer to the void with that id."""
        for name, run in self.steps.items():
            if run.skip is not None and run.skip.void.id == command_id:
                return name
        return None

    def step_of(self, command_id: str) -> str | None:
        """The step that ever had a command with that id."""
        for name, run in self.steps.items():
            if command_id in (*run.action_ids, *run.undo_ids, *run.void_ids):
                return name
        return None
