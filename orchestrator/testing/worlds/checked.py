"""What `check_saga` tells: the ways that it tried, and the one that failed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from orchestrator.machine.instance import Status


class Broken(AssertionError):
    """A promise did not hold."""


class WayFailed(AssertionError):
    """A way in which a promise did not hold. The text tells the way, the promise, and the
    history."""

    def __init__(self, way: str, problem: str, history: Collection[str], tried: int) -> None:
        self.way = way
        self.problem = problem
        lines = [
            f"{problem}",
            f"  the way: {way}",
            *(f"  {line}" for line in history),
            f"  ({tried} ways were tried before it; only={way!r} tries this one alone)",
        ]
        super().__init__("\n".join(lines))


@dataclass
class Checked:
    """The ways that were tried. `missed` are those that the run never came to, of steps that it
    does not reach with this input."""

    ways: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    ends: dict[str, Status] = field(default_factory=dict)
    """The run's final status in each way."""

    def __str__(self) -> str:
        return f"{len(self.ways)} ways tried, {len(self.missed)} of them not reached"
