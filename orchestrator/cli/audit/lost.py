"""Runs and inboxes that contradict each other, as after a restore.

Pure: from what an orchestrator knows of its runs, and the rows in the inboxes of participants, to
what one of them has lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from orchestrator.machine.instance import StepRun, StepStatus
from outbox.inbox.rows import State

_IN_EFFECT = frozenset({State.RAN, State.PENDING, State.UNDOING})


class Loss(Enum):
    """A contradiction between a run and an inbox; the value is its code."""

    EFFECT_LOST = "effect-lost"
    """The run counts a command as done, and its participant does not know it."""
    EFFECT_KEPT = "effect-kept"
    """The run counts a step as undone, and its action is in effect at the participant."""
    UNKNOWN_RUN = "unknown-run"
    """A participant has effects of a run that the orchestrator does not know."""
    UNKNOWN_COMMAND = "unknown-command"
    """A participant has the effect of a command that the run, which has ended, never sent."""

    @property
    def should(self) -> str:
        """What should hold, for people."""
        return _SHOULD[self]

    @property
    def decide(self) -> str:
        """What an operator has to decide."""
        return _DECIDE[self]


_SHOULD: Mapping[Loss, str] = {
    Loss.EFFECT_LOST: "a participant knows each command that a run counts as done",
    Loss.EFFECT_KEPT: "a participant has undone what a run counts as undone",
    Loss.UNKNOWN_RUN: "an orchestrator knows each run that has effects at a participant",
    Loss.UNKNOWN_COMMAND: "a run that has ended knows each command that took effect",
}
_DECIDE: Mapping[Loss, str] = {
    Loss.EFFECT_LOST: "the participant was restored: do the step once more by hand or by a new "
    "run, or undo what the run did elsewhere",
    Loss.EFFECT_KEPT: "the participant was restored, or forgot an undo: undo the step by hand",
    Loss.UNKNOWN_RUN: "the orchestrator was restored: see whether the effects are whole, and start "
    "a new run or undo them by hand where they are not",
    Loss.UNKNOWN_COMMAND: "the orchestrator was restored: undo the effect by hand, or keep it",
}


@dataclass(frozen=True)
class Lost:
    """One contradiction: the run, and the participant whose inbox it is about. `detail` names the
    steps, else the commands."""

    loss: Loss
    service: str
    saga_id: str
    saga: str = ""
    key: str = ""
    detail: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """Its place in a sorted list."""
        return (self.saga_id, self.loss.value, self.service, self.detail)


@dataclass(frozen=True)
class Ended:
    """A run that has ended. `owners` are the participants of its commands, by their ids."""

    id: str
    name: str
    key: str
    steps: Mapping[str, StepRun]
    owners: Mapping[str, str]

    @property
    def command_ids(self) -> frozenset[str]:
        """All commands that it ever sent."""
        return frozenset(
            it
            for run in self.steps.values()
            for it in (*run.action_ids, *run.undo_ids, *run.void_ids)
        )

    @property
    def lacks_owners(self) -> bool:
        """Whether it is no longer known where some of its commands went, since its history was
        removed: what their participants have lost is not seen."""
        return any(it not in self.owners for it in wanted(self))


@dataclass(frozen=True)
class Received:
    """A row of an inbox."""

    id: str
    state: State
    saga: str
    barred_by: str | None = None


def wanted(run: Ended) -> Iterator[str]:
    """The ids of the commands whose rows `contradicted` asks for."""
    for step in run.steps.values():
        yield from step.action_ids


def contradicted(
    run: Ended, rows: Mapping[str, Mapping[str, Received]], forgot: Collection[str]
) -> Iterator[Lost]:
    """What the participants' rows (by service, then by id) say against the run. `forgot` are the
    services whose purge may have deleted its rows; one that has no rows here is not looked at."""
    lost: dict[tuple[Loss, str], list[str]] = {}
    for name, step in run.steps.items():
        for command_id in step.action_ids:
            service = run.owners.get(command_id)
            if service is None or service not in rows:
                continue
            row = rows[service].get(command_id)
            if row is None and _counts_as_done(step, command_id) and service not in forgot:
                lost.setdefault((Loss.EFFECT_LOST, service), []).append(name)
            if row is not None and row.state is State.RAN and step.status is StepStatus.UNDONE:
                lost.setdefault((Loss.EFFECT_KEPT, service), []).append(name)
    for (loss, service), steps in lost.items():
        yield Lost(loss, service, run.id, run.name, run.key, ", ".join(steps))


def unheard(service: str, saga_id: str, rows: Iterable[Received], run: Ended | None) -> Lost | None:
    """What the rows of that run at this participant say that the orchestrator does not know. `run`
    is None where the orchestrator does not know the run."""
    found = list(rows)
    known = frozenset() if run is None else run.command_ids
    strange = [it for it in in_effect(found) if it.id not in known]
    if not strange:
        return None
    many = "1 command" if len(strange) == 1 else f"{len(strange)} commands"
    detail = f"{many}, the first {strange[0].id}"
    if run is None:
        return Lost(Loss.UNKNOWN_RUN, service, saga_id, detail=detail)
    return Lost(Loss.UNKNOWN_COMMAND, service, saga_id, run.name, run.key, detail)


def in_effect(rows: Sequence[Received]) -> list[Received]:
    """The actions among them that are in effect, or may be: neither undone nor an undo."""
    undos = {it.barred_by for it in rows if it.barred_by is not None}
    return [it for it in rows if it.state in _IN_EFFECT and it.id not in undos]


def _counts_as_done(step: StepRun, command_id: str) -> bool:
    if step.status is not StepStatus.DONE:
        return False
    # Code that remembered no such ids left them empty.
    done = step.done_ids or step.action_ids[-1:]
    return command_id == done[-1]
