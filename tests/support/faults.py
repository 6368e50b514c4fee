"""What may go wrong in one run, and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Faults:
    """How often each may still happen."""

    duplicates: int = 0
    """A message arrives, and a copy of it stays on its way."""
    losses: int = 0
    """A message never arrives."""
    crashes: int = 0
    """The orchestrator starts again and sends everything awaited once more."""
    late: int = 0
    """A deadline passes while the command or its answer is still on its way."""
    refusals: int = 0
    """A participant refuses what must succeed: a retriable step, a compensation."""
    locks: int = 0
    """A participant answers that another operation holds the entity."""
    burials: int = 0
    """A command becomes a dead letter."""
    cancels: int = 0
    retries: int = 0
    skips: int = 0
    pauses: int = 0

    def without(self, name: str) -> Faults | None:
        """One fewer of these; None where none is left."""
        left = getattr(self, name)
        return replace(self, **{name: left - 1}) if left else None
