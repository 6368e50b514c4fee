"""The first statement of a transaction of the inbox: its limits, and the rows of its messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Executable,
    LargeBinary,
    Table,
    Text,
    Uuid,
    bindparam,
    column,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from outbox.adding.installation import tables_of
from outbox.database.column_types import PLACE, UtcDateTime, given
from outbox.inbox.rows import Claim
from outbox.inbox.transactions.session import require_read_committed
from outbox.inbox.transactions.store import is_postgresql

_ROOM = 5.0
"""Seconds between the time of a transaction and the bound at which PostgreSQL ends it."""

_Id = Uuid(as_uuid=False)
_CLAIMED: Mapping[str, TypeEngine[Any]] = {
    "id": _Id,
    "state": Text(),
    "fingerprint": LargeBinary(),
    "barred_by": _Id,
    "source": Text(),
    "saga": _Id,
    "saga_number": _Id,
    "due": UtcDateTime(),
}
_LEVEL = text("SELECT current_setting('transaction_isolation')")
_BOUNDING = text(
    "SELECT current_setting('transaction_isolation') AS level,"
    " set_config('lock_timeout', :lock, true), set_config('statement_timeout', :total, true),"
    " set_config('idle_in_transaction_session_timeout', :total, true),"
    # From PostgreSQL 17 on. A timer that runs is only set anew after it was stopped.
    " CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL"
    " THEN set_config('transaction_timeout', '0', true)"
    " || set_config('transaction_timeout', :total, true) END"
).columns(column("level", Text))


@dataclass(frozen=True)
class Bounds:
    """The bounds of one transaction, in seconds: `lock` for the wait for a lock; `total`, and a few
    more, for a statement, a pause and the transaction."""

    lock: float
    total: float

    def milliseconds(self) -> dict[str, str]:
        """As PostgreSQL takes them."""
        total = (self.total + _ROOM) * 1000
        return {"lock": f"{self.lock * 1000:.0f}ms", "total": f"{total:.0f}ms"}


def bound(session: Session, bounds: Bounds) -> None:
    """Set the bounds. Raises IsolationRefused above READ COMMITTED. For PostgreSQL; on SQLite the
    engine bounds the wait for its lock."""
    require_read_committed(session.execute(_BOUNDING, bounds.milliseconds()).scalars().one())


def isolation_of(session: Session) -> str:
    """The isolation level of the session's transaction. For PostgreSQL."""
    return str(session.execute(_LEVEL).scalar_one())


def claim(
    session: Session, consumer: str, rows: Sequence[Claim], now: datetime, bounds: Bounds
) -> set[str]:
    """Insert the rows, in the order given; returns the ids that were not there before. Waits for
    another transaction that is inserting one of them, until that one has ended.

    On PostgreSQL the bounds are set before, so that they hold for that wait. Raises as `bound`.
    """
    inbox = tables_of(session).inbox
    if not is_postgresql(session):
        values = [
            {
                "consumer": consumer,
                "id": row.id,
                "state": row.state.value,
                "fingerprint": row.fingerprint,
                "reply": None,
                "barred_by": row.barred_by,
                "source": row.source,
                "saga": row.saga,
                "saga_number": row.saga_number,
                "due": row.due,
                "received_at": now,
            }
            for row in rows
        ]
        return set(session.execute(_inserting_rows(inbox), values).scalars())
    parameters = {
        "ids": [row.id for row in rows],
        "states": [row.state.value for row in rows],
        "fingerprints": [row.fingerprint for row in rows],
        "barred_bys": [row.barred_by for row in rows],
        "sources": [row.source for row in rows],
        "sagas": [row.saga for row in rows],
        "saga_numbers": [row.saga_number for row in rows],
        "dues": [row.due for row in rows],
        "consumer": consumer,
        "received_at": now,
        **bounds.milliseconds(),
    }
    found = session.execute(_claiming(inbox), parameters).all()
    require_read_committed(found[0].level)
    return {row.id for row in found if row.id is not None}


@cache
def _inserting_rows(inbox: Table) -> Executable:
    return sqlite_insert(inbox).on_conflict_do_nothing().returning(inbox.c.id)


@cache
def _claiming(inbox: Table) -> Executable:
    """The isolation level beside each id that was inserted, or alone where none was."""
    bounds = _BOUNDING.cte("bounds")
    rows = given(_CLAIMED)
    constants = [
        bindparam("consumer", type_=inbox.c.consumer.type),
        bindparam("received_at", type_=inbox.c.received_at.type),
    ]
    inserted = (
        postgresql_insert(inbox)
        .from_select(
            ["consumer", "received_at", *_CLAIMED],
            # There is no row to insert, and no wait for it, before there are the bounds.
            select(*constants, *(rows.c[name] for name in _CLAIMED))
            .join_from(rows, bounds, bounds.c.level.is_not(None))
            .order_by(rows.c[PLACE]),
        )
        .on_conflict_do_nothing()
        .returning(inbox.c.id)
        .cte("inserted")
    )
    return select(bounds.c.level, inserted.c.id).join_from(bounds, inserted, true(), isouter=True)
