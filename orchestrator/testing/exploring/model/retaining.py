"""The retention of an explored run: what the orchestrator's tables still have of it.

What stays of its id, and what that says of a start, is asked of the real rules. When something is
removed is written here from the rules of the statements, and shares no code with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import Enum, auto
from typing import NamedTuple

from orchestrator.retention.remembering import (
    REMOVED_AFTER,
    is_forgotten,
    may_be_removed,
    remembered,
)
from orchestrator.testing.exploring.model.events import What
from orchestrator.testing.exploring.model.faults import Price
from orchestrator.testing.exploring.model.promises import Broken
from outbox.ids import first_at, time_of

_TICK = timedelta(milliseconds=1)


class Rule(Enum):
    """What the statements keep to. An exploration without one of them has to find that."""

    ENDED = auto()
    """What has not ended is not removed."""
    KEYS = auto()
    """The idempotency key of a run stays for as long as the run."""
    WRITES = auto()
    """Answers are taken in by a run that is there, and make none."""


class Kept(NamedTuple):
    """What there is of the run: its row, the tombstone of its id, the watermark of all ids that
    are forgotten, and its idempotency key."""

    is_there: bool = True
    has_tombstone: bool = False
    below: str | None = None
    has_key: bool = True


WHOLE = Kept()
"""Before anything is removed."""


class Retaining:
    """What becomes of the run of that id, `without` one of the rules."""

    def __init__(self, run_id: str, without: Rule | None) -> None:
        self._id = run_id
        self._without = without
        made = time_of(run_id)
        # A run that ended at once, and is removed as early as a policy may have it.
        self._young = first_at(made)
        self._old = first_at(made + _TICK)
        self._asked = made + REMOVED_AFTER / 2 + _TICK

    def removals(self, kept: Kept, *, ended: bool) -> Iterator[tuple[What, Kept, Price]]:
        """What retention may remove now, and what there is after that."""
        price = ("removals",)
        if kept.is_there and (ended or self._without is Rule.ENDED):
            yield What.REMOVED, self._without_run(kept, self._young), price
            yield What.FORGOTTEN, self._without_run(kept, self._old), price
        if kept.has_tombstone:
            forgotten = remembered([self._id], self._old, kept.below)
            yield What.FORGOTTEN, kept._replace(has_tombstone=False, below=forgotten.below), price
        if kept.has_key and (not kept.is_there or self._without is Rule.KEYS):
            yield What.UNKEYED, kept._replace(has_key=False), price

    def _without_run(self, kept: Kept, remember_from: str) -> Kept:
        stays = remembered([self._id], remember_from, kept.below)
        is_remembered = self._id in stays.tombstones
        return kept._replace(is_there=False, has_tombstone=is_remembered, below=stays.below)

    @property
    def makes_runs(self) -> bool:
        """Whether an answer makes the run anew that was removed."""
        return self._without is Rule.WRITES

    def starts(self, kept: Kept) -> Iterator[tuple[What, Broken | None, Price]]:
        """The starts that may come again, each with what it breaks. They change nothing else: one
        with a key that went with its run begins another run, which is no matter of this one."""
        price = ("starts",)
        yield What.AGAIN, self._begun_by_id(kept), price
        if kept.has_key or kept.is_there:
            yield What.SAME_KEY, self._begun_by_key(kept), price

    def _begun_by_id(self, kept: Kept) -> Broken | None:
        known = {self._id} if kept.is_there or kept.has_tombstone else ()
        if known:
            return None
        is_looked_for = may_be_removed(self._id, self._asked)
        if is_forgotten(self._id, known, kept.below if is_looked_for else None):
            return None
        return Broken("P2", "a run that was removed begins once more")

    def _begun_by_key(self, kept: Kept) -> Broken | None:
        if kept.has_key:
            return None
        return Broken("P2", "one idempotency key leads to two runs, and the first one is there")


def check_removed(kept: Kept, *, ended: bool) -> None:
    """Raises Broken where what went on is gone."""
    if not kept.is_there and not ended:
        raise Broken("P4", "a run that had not ended was removed")
