"""The end of a run in a world, for a test to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.machine.instance import Instance, Status, StepStatus


@dataclass(frozen=True)
class Run:
    """A run that came to rest: it ended, is STUCK, or waits for answers that come later. `reasons`
    are of the steps that have one; `history` is its history, in words; `pending` has the ids of the
    pending commands, by step."""

    id: str
    status: Status
    state: Any
    steps: Mapping[str, StepStatus]
    reasons: Mapping[str, str]
    history: tuple[str, ...]
    pending: Mapping[str, str]
    parked: str | None = None
    """The reason why the orchestrator cannot work on it, if any."""

    @property
    def is_ended(self) -> bool:
        """Whether it ended."""
        return self.status.is_final

    @property
    def problem(self) -> str:
        """The reason why it did not end, as far as it is known."""
        stuck = [
            f"step {name!r} is STUCK: {self.reasons.get(name, 'no reason is known')}"
            for name, status in self.steps.items()
            if status is StepStatus.STUCK
        ]
        return "; ".join([f"parked: {self.parked}"] if self.parked else stuck)


def run_of(instance: Instance[Any], parked: str | None, lines: list[Any], begin: datetime) -> Run:
    """The run, with the lines of its history."""
    return Run(
        id=instance.id,
        status=instance.status,
        state=instance.state,
        steps={name: it.status for name, it in instance.steps.items()},
        reasons={name: it.reason for name, it in instance.steps.items() if it.reason},
        history=tuple(_line(it, begin) for it in lines),
        pending=pending_in(instance),
        parked=parked,
    )


def pending_in(instance: Instance[Any]) -> dict[str, str]:
    """By step, the ids of the commands whose participants said that their answers come later, and
    not from a call that they make."""
    awaited = {name: it.awaited for name, it in instance.steps.items() if it.awaited is not None}
    return {
        name: it.id
        for name, it in awaited.items()
        if it.pending is not None and not it.pending.progress.attempt
    }


def _line(row: Any, begin: datetime) -> str:
    words = [f"{(row.at - begin).total_seconds():9.3f} s", row.happening]
    words += [repr(row.step)] if row.step else []
    words += [row.detail] if row.detail else []
    return "  ".join(words)
