"""The SQL of `inbox_pending`, each function in the caller's transaction.

Who changes a row here has locked the row of the same id in `inbox` before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.database.column_types import UtcDateTime
from outbox.inbox.pending.pended import Pended
from outbox.tables import DEFAULT_TABLES
from outbox.wire import reply_json


def time_of_database(session: Session, now: datetime) -> ColumnElement[datetime]:
    """The time by which calls are judged: PostgreSQL's own, so that processes on machines whose
    clocks differ agree; on SQLite, whose processes share a machine, the one handed in."""
    if session.get_bind().dialect.name == "postgresql":
        return func.clock_timestamp(type_=UtcDateTime())
    return literal(now, UtcDateTime())


def now(session: Session, now: datetime) -> datetime:
    """That time, now."""
    return session.execute(select(time_of_database(session, now))).scalar_one()


def read(session: Session, consumer: str, ids: Collection[str], now: datetime) -> dict[str, Pended]:
    """What is kept of these commands."""
    inbox_pending = tables_of(session).inbox_pending
    statement = (
        select(inbox_pending, time_of_database(session, now).label("read_at"))
        .where(inbox_pending.c.consumer == consumer, inbox_pending.c.id.in_(ids))
        .order_by(inbox_pending.c.since, inbox_pending.c.id)
    )
    found = map(_pended, session.execute(statement))
    return {it.id: it for it in found}


def add(session: Session, consumer: str, rows: Sequence[Pended]) -> None:
    """Keep these."""
    inbox_pending = tables_of(session).inbox_pending
    session.execute(insert(inbox_pending), [_values(consumer, row) for row in rows])


def change(session: Session, consumer: str, pended: Pended) -> None:
    """Let what is kept of that command be this."""
    inbox_pending = tables_of(session).inbox_pending
    values = _values(consumer, pended)
    session.execute(
        update(inbox_pending)
        .where(
            inbox_pending.c.consumer == values.pop("consumer"),
            inbox_pending.c.id == values.pop("id"),
        )
        .values(values)
    )


def remove(session: Session, consumer: str, ids: Collection[str]) -> None:
    """Forget these."""
    inbox_pending = tables_of(session).inbox_pending
    at = inbox_pending.c
    session.execute(delete(inbox_pending).where(at.consumer == consumer, at.id.in_(ids)))


def _pended(row: Row[Any]) -> Pended:
    fields = {name: getattr(row, name) for name in _FIELDS}
    found = Pended(**fields, read_at=row.read_at, undoes=tuple(orjson.loads(row.undoes)))
    if row.late_reply is None:
        return found
    return replace(found, late_reply=reply_json.loads(row.late_reply))


def _values(consumer: str, row: Pended) -> dict[str, Any]:
    late = row.late_reply
    return {name: getattr(row, name) for name in _FIELDS} | {
        "consumer": consumer,
        "undoes": orjson.dumps(row.undoes).decode(),
        "late_reply": None if late is None else reply_json.dumps(late).decode(),
    }


_FIELDS = tuple(
    it.name
    for it in DEFAULT_TABLES.inbox_pending.c
    if it.name not in ("consumer", "undoes", "late_reply")
)
