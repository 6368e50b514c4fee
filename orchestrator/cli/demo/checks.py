"""The checks of the demo, as values, without any service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check: the expected and the found value."""

    name: str
    expected: object
    found: object

    @property
    def held(self) -> bool:
        """Whether it is as it was expected to be."""
        return self.expected == self.found

    def __str__(self) -> str:
        """The name, and where it did not hold also why."""
        if self.held:
            return self.name
        return f"{self.name}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one scene. `seconds` is the time that the services took, `how` says in a few
    words how it was checked."""

    scene: str
    result: str
    seconds: float
    how: str
    checks: Sequence[Check]

    @property
    def broken(self) -> Sequence[Check]:
        """The checks that did not hold."""
        return [it for it in self.checks if not it.held]

    @property
    def held(self) -> bool:
        """Whether something was checked, and all of it held."""
        return bool(self.checks) and not self.broken


Comment = Mapping[str, Any]
"""A comment as it is shown: its id, content, author, times."""


def differences(before: Iterable[Comment], after: Iterable[Comment]) -> Sequence[str]:
    """How the comments differ, each told by its id and compared in all that is shown of it."""
    old = {it["id"]: it for it in before}
    new: dict[str, Comment] = {}
    told = []
    for comment in after:
        if comment["id"] in new:
            told.append(f"{comment['id']} is there twice")
        new[comment["id"]] = comment
    told += [f"{it} is missing" for it in old if it not in new]
    told += [f"{it} was not there before" for it in new if it not in old]
    for it in old.keys() & new.keys():
        fields = sorted(old[it].keys() | new[it].keys())
        changed = [name for name in fields if old[it].get(name) != new[it].get(name)]
        told += [f"{it} has another {name}" for name in changed]
    return sorted(told)


def midway(saga: Mapping[str, Any] | None) -> Check:
    """The check that the run had begun and not ended: the first step done, the second sent."""
    expected = "RUNNING, hide article DONE, close thread SENT"
    if saga is None:
        return Check("killed in the middle of the run", expected, "no run")
    steps = {it["name"]: it["status"] for it in saga["steps"]}
    shown = ("hide article", "close thread")
    found = ", ".join([saga["status"], *(f"{it} {steps.get(it)}" for it in shown)])
    return Check("killed in the middle of the run", expected, found)
