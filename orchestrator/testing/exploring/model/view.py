"""What an invariant may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.machine.instance import Status, StepStatus


@dataclass(frozen=True)
class View:
    """One moment of one run, from outside: what the orchestrator has stored, and what is true at
    the participants.

    `steps` says how the orchestrator believes each step to stand; `in_effect` names the steps whose
    action took effect and was not undone. Between the two lie the messages that are on their way.
    `state` is the saga's state, `not_undone` what a person left in place.
    """

    status: Status
    steps: Mapping[str, StepStatus]
    state: Any
    in_effect: frozenset[str]
    not_undone: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self.status.is_final


Invariant = Callable[[View], bool | str]
"""True where it holds; False, or a sentence that says why, where it does not."""
