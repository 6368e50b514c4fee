"""The retention of an inbox, and what a missing row may mean.

An inbox that forgets by age alone would one day take "forgotten" for "never ran". So it keeps the
rows of a saga's commands for as long as the saga lives, and covers every row with a watermark
before it deletes it: a message from before the watermark without a row may have run, and is never
run again.

An id does not tell the age, since it may be derived from an old one, or made long before it is due:
a message is as old as its `due`, and a run as its number. Only a message without them is judged by
its ids.

Pure: values to values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from outbox.ids import first_at, time_of
from outbox.wire.settled import EndedSagas

MINIMUM_RETENTION = timedelta(days=1)
"""No inbox forgets a message sooner, nor one that was due later than this. Half of it is the margin
for clocks that differ: a message younger than that half cannot have been forgotten."""

_TICK = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The watermarks of an inbox, up to which it may have purged: `age` for messages without a
    saga, by their ages; `barred` for commands without a saga that were undone before they came, by
    their ids; `sagas` for the sagas of each source. Without a watermark nothing was purged.

    `restored` is no purge: after a restore it says for each source which of its sagas do not live,
    so that what the inbox lost of them is forgotten, too."""

    age: str | None = None
    sagas: Mapping[str, EndedSagas] = field(default_factory=dict)
    barred: str | None = None
    restored: Mapping[str, EndedSagas] = field(default_factory=dict)

    def covers(self, id: str, source: str, saga: str | None, due: datetime | None = None) -> bool:
        """Whether that absent message may have been seen once. `saga` is the number of its saga."""
        if saga is None:
            return _is_under(age_of(id, due), self.age)
        marks = (self.sagas.get(source), self.restored.get(source))
        return any(mark is not None and mark.covers(saga) for mark in marks)

    def may_bar(self, id: str) -> bool:
        """Whether an absent command of that id may have been undone before it came."""
        return _is_under(id, self.barred)


NOTHING_FORGOTTEN = Forgotten()


def age_of(id: str, due: datetime | None) -> str:
    """The age of a message, which compares with other ages: the smallest id of the millisecond in
    which it was due; its own id, where the message does not say."""
    return id if due is None else _first_at(due)


def beyond(rows: Iterable[tuple[str, datetime | None]]) -> str:
    """The watermark that covers these rows (id, due), at least one, and none that is younger.

    A row counts by the later of its two times. Otherwise an undo, which names its actions by their
    ids alone, would take a purged action for one that never ran.
    """
    return _first_at(max(_latest(id, due) for id, due in rows) + _TICK)


def may_be_forgotten(ages: Iterable[str], now: datetime) -> bool:
    """Whether any of these ages is so old that the watermarks matter."""
    oldest = min(ages, default=None)
    return oldest is not None and oldest < _first_at(now - MINIMUM_RETENTION / 2)


def horizon(now: datetime, retention: timedelta) -> str:
    """The age from which rows are kept in any case: of this age or younger."""
    return _first_at(now - retention)


def _is_under(age: str, watermark: str | None) -> bool:
    return watermark is not None and age < watermark


def _latest(id: str, due: datetime | None) -> datetime:
    made = time_of(id)
    return made if due is None else max(made, due)


def _first_at(moment: datetime) -> str:
    return first_at(max(moment, _EPOCH))
