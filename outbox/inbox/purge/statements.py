"""The SQL of the purge, each function in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Table, and_, or_, select
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.retention import beyond, horizon
from outbox.inbox.rows import State
from outbox.inbox.transactions.store import (
    AGE,
    BARRED,
    SAGA,
    forget,
    lock_watermarks,
    run_number,
    set_watermark,
    watermarks,
)
from outbox.wire.settled import EndedSagas


def is_old(inbox: Table, consumer: str, now: datetime, retention: timedelta) -> ColumnElement[bool]:
    """The condition that a row of that consumer is past the time of redelivery."""
    cutoff = now - retention
    was_due = or_(inbox.c.due.is_(None), inbox.c.due < cutoff)
    of_age = and_(inbox.c.received_at < cutoff, inbox.c.id < horizon(now, retention), was_due)
    return and_(inbox.c.consumer == consumer, of_age)


def purge(
    session: Session,
    consumer: str,
    settled: Mapping[str, EndedSagas],
    now: datetime,
    retention: timedelta,
    limit: int,
    doubtful: Collection[str] = (),
) -> int:
    """Delete up to `limit` rows that no sender can need any more, and store the watermarks that
    cover them. `settled` is each source's last statement; no row of a saga of a `doubtful` source
    is deleted. Returns how many rows were deleted."""
    inbox = tables_of(session).inbox
    lock_watermarks(session)
    before, old = horizon(now, retention), is_old(inbox, consumer, now, retention)
    number = run_number(inbox)
    known = watermarks(session, consumer)
    # What belongs to no saga is not known to be over before it is answered.
    is_open = inbox.c.state.in_([State.PENDING.value, State.UNDOING.value])
    doomed = _some(session, and_(old, inbox.c.saga.is_(None), ~is_open), limit)
    for source in sorted({*settled, *known.sagas}.difference(doubtful)):
        mark = joined(settled.get(source), known.sagas.get(source), before)
        ended = and_(number < mark.before, number.not_in(mark.live))
        found = _some(session, and_(old, inbox.c.source == source, ended), limit - len(doomed))
        if found:
            set_watermark(session, consumer, source, SAGA, mark)
            doomed += found
    if doomed:
        # Covers the commands of sagas too, for an undo that forgot to name the saga.
        _raise_watermark(session, consumer, AGE, [(row.id, row.due) for row in doomed], known.age)
        # Only their ids tell when these were to come, if ever.
        barred = [(row.id, None) for row in doomed if row.is_barred and row.saga is None]
        if barred:
            _raise_watermark(session, consumer, BARRED, barred, known.barred)
        ids = [row.id for row in doomed]
        pending_rows.remove(session, consumer, ids)
        forget(session, consumer, ids)
    return len(doomed)


def joined(said: EndedSagas | None, stored: EndedSagas | None, before: str) -> EndedSagas:
    """The join of an orchestrator's stored and last statements, as far as the horizon `before`."""
    if said is None:
        assert stored is not None, "the source is known from one of the two"
        return stored
    # Sagas beyond the horizon have no rows to purge, so the statement need not be believed there.
    return said.capped(before).join(stored)


@dataclass(frozen=True, slots=True)
class _Doomed:
    """A row that is about to be purged."""

    id: str
    due: datetime | None
    saga: str | None
    is_barred: bool
    """Its undo came first."""


def _some(session: Session, condition: ColumnElement[bool], limit: int) -> list[_Doomed]:
    """The oldest rows that meet the condition and that no transaction has locked."""
    inbox = tables_of(session).inbox
    if limit <= 0:
        return []
    came_too_late = and_(inbox.c.state == State.BARRED.value, inbox.c.barred_by.is_not(None))
    statement = (
        select(inbox.c.id, inbox.c.due, inbox.c.saga, came_too_late)
        .where(condition)
        .order_by(inbox.c.received_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_Doomed(*row) for row in session.execute(statement)]


def _raise_watermark(
    session: Session,
    consumer: str,
    scope: str,
    rows: Sequence[tuple[str, datetime | None]],
    known: str | None,
) -> None:
    """Let the watermark cover these rows. It stands at the youngest row ever purged, so that an
    inbox that was away for long has forgotten nothing younger."""
    reached = beyond(rows)
    mark = EndedSagas(reached if known is None else max(reached, known))
    set_watermark(session, consumer, "", scope, mark)
