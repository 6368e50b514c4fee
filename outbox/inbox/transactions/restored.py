"""The mark of a restore: which sagas do not live, so that nothing of them takes effect any more.

A restored inbox has lost rows, and with them the memory of what ran and of what was undone. For a
saga that lives that is right: its effects are lost as well, and its commands may run again. A copy
of a command of any other saga may still rest somewhere, and its row alone would stop it.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.inbox.rows import Arrival
from outbox.inbox.transactions import store
from outbox.wire.settled import MAX_REMEMBERED, EndedSagas


def mark(session: Session, consumer: str, source: str, before: str, live: Iterable[str]) -> str:
    """Let no absent command of a saga of `source` run whose number is below `before`, except of
    those that live. Returns the number up to which that holds: `before`, or less where more live
    than are remembered."""
    exempt = sorted(it for it in set(live) if it < before)
    reached = before if len(exempt) <= MAX_REMEMBERED else exempt[MAX_REMEMBERED]
    store.lock_watermarks(session)
    # A purge counts on the other marks, and an audit on seeing what is lost: so it has its own.
    ended = EndedSagas(reached, frozenset(exempt[:MAX_REMEMBERED]))
    store.set_watermark(session, consumer, source, store.RESTORED, ended)
    return reached


class RestoredMark:
    """The mark in one consumer's database, as far as a process must know it to look for more. It is
    read once, since it is only set while no process of the service runs."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._is_read = False
        self._below: str | None = None

    def concerns(self, session: Session, arrivals: Iterable[Arrival]) -> bool:
        """Whether any of these belongs to a saga that the mark may cover."""
        if not self._is_read:
            self._below = self._read(session)
            self._is_read = True
        below = self._below
        if below is None:
            return False
        return any((it.saga_number or below) < below for it in arrivals)

    def _read(self, session: Session) -> str | None:
        marks = tables_of(session).inbox_watermark.c
        found: str | None = session.scalar(
            select(marks.below)
            .where(marks.consumer == self._consumer, marks.scope == store.RESTORED)
            .order_by(marks.below.desc())
            .limit(1)
        )
        return found
