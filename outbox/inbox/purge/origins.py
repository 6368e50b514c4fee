"""The databases from which the orchestrators of one name speak.

What an orchestrator says of its ended sagas is said of those in its own database. Where two
orchestrators have one name, by mistake, each knows nothing of the other's sagas and says that they
have ended; the rows of an inbox tell only the name. So an inbox remembers which databases it has
heard of under a name, each for as long as a row must be kept anyway. As long as there is more than
one, it forgets nothing of the sagas of that name, and believes no answer about them.

A database that was replaced looks the same at first, and is silent from then on: when it has been
so for the retention, what the other one says counts. Two that go on to speak are two at once.

A sender that tells no database is an older one, and counts as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import TypeAlias

import orjson
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.inbox.transactions import store
from outbox.tables import Tables

DATABASES = "databases"

MOST = 10
"""Databases of one name that are remembered, at most: those that spoke last."""

_EXACT = timedelta(hours=1)
"""By how much the stored time of the last word may be behind."""
_LATELY = timedelta(days=1)
_CLOCKS = timedelta(minutes=1)
"""By how much the clocks of an inbox's processes may differ."""


@dataclass(frozen=True, slots=True)
class Heard:
    """When a database spoke first and last."""

    first: datetime
    last: datetime

    def joined(self, other: Heard | None) -> Heard:
        """The same for what was heard by either."""
        if other is None:
            return self
        return Heard(min(self.first, other.first), max(self.last, other.last))


Origins: TypeAlias = Mapping[str, Heard]
"""The databases that spoke under one name, by their ids."""


def joined(one: Origins, other: Origins, since: datetime) -> dict[str, Heard]:
    """Those of either that have spoken since then, MOST of them; the last speaker last."""
    both = {id: one[id].joined(other.get(id)) if id in one else other[id] for id in {*one, *other}}
    heard = sorted(both.items(), key=lambda it: (it[1].last, it[0]))
    return {id: it for id, it in heard[-MOST:] if it.last >= since}


def at_once(origins: Origins, now: datetime) -> tuple[str, ...]:
    """Those that certainly speak side by side, and did so lately."""
    lately = {id: it for id, it in origins.items() if it.last >= now - _LATELY}
    pairs = [
        (one, other)
        for one, other in combinations(sorted(lately), 2)
        if _overlap(lately[one], lately[other]) > _CLOCKS
    ]
    return tuple(sorted({id for pair in pairs for id in pair}))


def keep(
    session: Session,
    consumer: str,
    heard: Mapping[str, Origins],
    now: datetime,
    retention: timedelta,
) -> dict[str, dict[str, Heard]]:
    """Remember what this process has heard, by the names; returns what is known of each name."""
    if heard:
        store.lock_watermarks(session)
    stored, since = _read(session, consumer), now - retention
    known: dict[str, dict[str, Heard]] = {}
    for source in sorted({*stored, *heard}):
        before = stored.get(source, {})
        known[source] = joined(before, heard.get(source, {}), since)
        if source in heard and _is_news(before, known[source]):
            _write(session, consumer, source, known[source])
    return known


def may_answer(session: Session, consumer: str, source: str, database: str | None) -> bool:
    """Whether an answer about the sagas of that name counts, which came from that database."""
    known = _read(session, consumer).get(source, {})
    return len(known) <= 1 and (database is None or not known or database in known)


def _overlap(one: Heard, other: Heard) -> timedelta:
    return min(one.last, other.last) - max(one.first, other.first)


def _is_news(before: Origins, known: Origins) -> bool:
    if not known:
        return False
    return before.keys() != known.keys() or any(
        it.last - before[id].last >= _EXACT for id, it in known.items()
    )


def heard_of(
    session: Session | Connection, tables: Tables, consumer: str
) -> dict[str, dict[str, Heard]]:
    """What the processes of this consumer have kept, by the names; also of those that fell silent
    long ago."""
    marks = tables.inbox_watermark.c
    statement = select(marks.source, marks.except_ids).where(
        marks.consumer == consumer, marks.scope == DATABASES
    )
    return {
        name: {
            id: Heard(datetime.fromisoformat(first), datetime.fromisoformat(last))
            for id, (first, last) in orjson.loads(text).items()
        }
        for name, text in session.execute(statement)
    }


def _read(session: Session, consumer: str) -> dict[str, dict[str, Heard]]:
    return heard_of(session, tables_of(session), consumer)


def _write(session: Session, consumer: str, source: str, known: Origins) -> None:
    times = {id: [it.first.isoformat(), it.last.isoformat()] for id, it in known.items()}
    # The column is there for a mark, and needs an id.
    last = [*known][-1]
    store.upsert(session, consumer, source, DATABASES, last, orjson.dumps(times).decode())
