"""What may go wrong in one run, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

from orchestrator.errors import InvalidInput

MAX_MIXTURES = 20_000
"""How many different amounts of faults one exploration keeps apart."""


@dataclass(frozen=True)
class Faults:
    """How often each may happen in one run; at any moment, and in every order and combination.

    What needs no fault always happens: messages arrive in any order and as late as they like, a
    participant says no to a step that can be undone or to the pivot, and a deadline comes once
    what it waits for is lost. Raises InvalidInput where one is negative, or all together are too
    many to be told apart.
    """

    duplicates: int = 0
    """A message arrives, and a copy of it stays on its way."""
    losses: int = 0
    """A message never arrives."""
    crashes: int = 0
    """The orchestrator dies before a commit, after it and before anything is handed over, or
    between two commits; at recovery it sends everything awaited once more."""
    late: int = 0
    """A deadline passes while the command or its answer is still on its way."""
    accepted: int = 0
    """The way to a participant only takes a command, as a broker does; the command arrives later,
    and its answer is a message."""
    refusals: int = 0
    """A participant refuses what must succeed: a retriable step, a compensation."""
    locks: int = 0
    """A participant answers that another operation holds the entity."""
    ongoing: int = 0
    """A participant answers that its work goes on elsewhere."""
    expiries: int = 0
    """A command arrives after its expiry, and will never run."""
    burials: int = 0
    """A command becomes a dead letter."""
    cancels: int = 0
    """A person cancels the run."""
    retries: int = 0
    """A person has a stuck step tried again."""
    skips: int = 0
    """A person skips a stuck step."""
    pauses: int = 0
    """A person pauses the run, and resumes it some time later."""
    terminations: int = 0
    """A person ends the run without undoing anything."""
    resolutions: int = 0
    """A person ends a stuck run, having taken care of what is left."""
    later: int = 0
    """The run is started for later, so that all of this may come before its begin, too; more than 1
    says no more."""
    pendings: int = 0
    """A participant answers that the answer comes later: done or refused, at any moment."""
    calls: int = 0
    """A participant makes a call to the outside, whose result is the answer."""
    hangs: int = 0
    """A call to the outside gets no answer in its time: the process that makes it dies, before or
    after its effect, or it goes on and ends late."""
    removals: int = 0
    """Retention removes the run, once it has ended; then its tombstone, or its idempotency key."""
    starts: int = 0
    """The start of the run comes again: its message, or a caller with its idempotency key."""

    def __post_init__(self) -> None:
        bounds = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, bound in bounds.items():
            if bound < 0:
                raise InvalidInput(
                    f"{name}={bound} says how often a fault may happen",
                    next_step="give 0 or more",
                )
        if prod(bound + 1 for bound in bounds.values()) > MAX_MIXTURES:
            raise InvalidInput(
                "these faults are too many to try all their combinations",
                next_step="give one or two of each, and explore different faults one after another",
            )


KINDS = tuple(field.name for field in fields(Faults))
"""Their names, in the order in which they are declared."""

USUAL = Faults(crashes=1, duplicates=1, losses=1, late=1, cancels=1)
"""The faults that are explored unless the caller names others."""

_NOT_PAID = "later"
"""What decides how a run starts, and is not used up while it goes on."""

FREE = "free"
"""The group of what may always happen; the other groups are named after the fault they take."""

Price = tuple[str, ...]
"""The faults that something takes, by name; nothing for what may always happen."""


class Budget:
    """The amounts of faults that may be left, as numbers. `first` is the number of all of them."""

    def __init__(self, faults: Faults) -> None:
        bounds = {
            name: getattr(faults, name)
            for name in KINDS
            if getattr(faults, name) and name != _NOT_PAID
        }
        self._names = tuple(bounds)
        self._numbers: dict[tuple[int, ...], int] = {}
        self._values: list[tuple[int, ...]] = []
        self._covered: list[int] = []
        self._left: dict[tuple[int, Price], int] = {}
        self.first = self._number(tuple(bounds.values()))

    def kinds(self, left: int) -> list[str]:
        """The faults of which there is at least one left."""
        return [name for name, many in zip(self._names, self._values[left], strict=True) if many]

    def pay(self, left: int, price: Price) -> int:
        """What is left after that; -1 where it cannot be paid."""
        if not price:
            return left
        key = (left, price)
        if key not in self._left:
            self._left[key] = self._paid(left, price)
        return self._left[key]

    def _paid(self, left: int, price: Price) -> int:
        values = list(self._values[left])
        for name in price:
            if name not in self._names:
                return -1
            values[self._names.index(name)] -= 1
        return -1 if min(values) < 0 else self._number(tuple(values))

    def covered(self, left: int) -> int:
        """The amounts that are nowhere more than this one, itself included, as bits: a run
        with this much left can do all that a run can with one of those left."""
        return self._covered[left]

    def _number(self, values: tuple[int, ...]) -> int:
        if values in self._numbers:
            return self._numbers[values]
        covered = 0
        for place, many in enumerate(values):
            if many:
                fewer = (*values[:place], many - 1, *values[place + 1 :])
                covered |= self._covered[self._number(fewer)]
        number = self._numbers[values] = len(self._values)
        self._values.append(values)
        self._covered.append(covered | 1 << number)
        return number
