"""What a soak run has done and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class SoakReport:
    """`recoveries` are seconds, from the end of the last fault of a round until everything that was
    accepted has ended and every outbox is empty."""

    seed: int
    minutes: float = 0.0
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        lines = [
            f"seed {self.seed}, {self.minutes:.1f} minutes, {self.rounds} rounds",
            "",
            "faults injected",
            *_counted(self.faults),
            f"{self.faults.total():8,} in all, {self._per_hour(self.faults.total()):,.0f} an hour",
            "",
            "sagas by end",
            *_counted(self.ends),
            f"{self.ends.total():8,} in all",
            "",
            "answers to those who published, commented, held and deleted",
            *_counted(self.answers),
            "",
            "seconds from the last fault of a round until everything had ended",
            *(f"{_quantile(self.recoveries, it):8.2f} p{it * 100:g}" for it in (0.5, 0.99)),
            f"{max(self.recoveries, default=0):8.2f} at most",
            "",
            f"violations: {len(self.violations)}",
            *(f"  {it}" for it in self.violations),
        ]
        return "\n".join(lines) + "\n"

    def _per_hour(self, number: int) -> float:
        return number / self.minutes * 60 if self.minutes else 0.0


def _counted(counter: Counter[str]) -> Sequence[str]:
    return [f"{number:8,} {name}" for name, number in sorted(counter.items())]


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
