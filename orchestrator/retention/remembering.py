"""What stays of the ids of runs that were removed, and what that says of a start. Pure.

Of an id a tombstone stays until it is too old for that. Then the watermark covers it: an absent id
below that begins no run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from outbox.ids import first_at, time_of

REMOVED_AFTER = timedelta(days=1)
"""No run is removed sooner after its end. Half of it is the margin for clocks that differ: no run
whose id was made within that half can have been removed."""

_TICK = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What stays of ids that go: those with a `tombstone` each, and where the watermark is then."""

    tombstones: frozenset[str]
    below: str | None


def remembered(ids: Iterable[str], remember_from: str, below: str | None) -> Remembered:
    """What stays of these ids: of those from `remember_from` on a tombstone, of the others the
    watermark, which was at `below`."""
    all_ids = frozenset(ids)
    young = frozenset(it for it in all_ids if it >= remember_from)
    return Remembered(young, raised(all_ids - young, below))


def raised(ids: Collection[str], below: str | None) -> str | None:
    """The watermark that covers these ids, and was at `below`."""
    if not ids:
        return below
    reached = first_at(time_of(max(ids)) + _TICK)
    return reached if below is None else max(reached, below)


def may_be_removed(instance_id: str, now: datetime) -> bool:
    """Whether a run of that id may have been removed, by a clock that may be behind."""
    return instance_id < first_at(now - REMOVED_AFTER / 2)


def is_forgotten(instance_id: str, known: Collection[str], below: str | None) -> bool:
    """Whether a start under that id is refused, since it is not among those that are `known`, and
    the watermark covers it."""
    return below is not None and instance_id < below and instance_id not in known
