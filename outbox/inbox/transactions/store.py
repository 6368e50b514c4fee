"""The SQL of the inbox, each function in the caller's transaction; `questions` has its own.

Bulk statements take arrays on PostgreSQL, so that their text, and with it the prepared statement,
is the same for every size of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Executable,
    LargeBinary,
    Table,
    Text,
    Uuid,
    bindparam,
    column,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.database.column_types import UtcDateTime
from outbox.database.table_set import in_sql
from outbox.inbox.retention import Forgotten
from outbox.inbox.rows import Change, Claim, Row, State
from outbox.wire import reply_json
from outbox.wire.settled import EndedSagas

AGE, SAGA, BARRED = "age", "saga", "barred"

_Id = Uuid(as_uuid=False)


def run_number(inbox: Table) -> ColumnElement[str]:
    """The number of the saga that a row belongs to."""
    return func.coalesce(inbox.c.saga_number, inbox.c.saga, type_=_Id)


def _given(**columns: Any) -> Any:
    """The given rows as a table, from one array for each column."""
    arrays = [bindparam(f"{name}s", type_=ARRAY(kind)) for name, kind in columns.items()]
    names = [column(name, kind) for name, kind in columns.items()]
    return func.unnest(*arrays).table_valued(*names, name="given").render_derived()


_claimed = _given(
    id=_Id,
    state=Text(),
    fingerprint=LargeBinary(),
    barred_by=_Id,
    source=Text(),
    saga=_Id,
    saga_number=_Id,
    due=UtcDateTime(),
)
_changed = _given(id=_Id, state=Text(), reply=Text(), barred_by=_Id)


@cache
def _insert_arrays(inbox: Table) -> Executable:
    return (
        postgresql_insert(inbox)
        .from_select(
            ["consumer", "received_at", *_claimed.c.keys()],
            select(
                bindparam("consumer", type_=inbox.c.consumer.type),
                bindparam("received_at", type_=inbox.c.received_at.type),
                *_claimed.c,
            ),
        )
        .on_conflict_do_nothing()
        .returning(inbox.c.id)
    )


@cache
def _insert_rows(inbox: Table) -> Executable:
    return sqlite_insert(inbox).on_conflict_do_nothing().returning(inbox.c.id)


@cache
def _update_arrays(inbox: Table) -> Executable:
    return (
        update(inbox)
        .where(inbox.c.consumer == bindparam("the_consumer"), inbox.c.id == _changed.c.id)
        .values(state=_changed.c.state, reply=_changed.c.reply, barred_by=_changed.c.barred_by)
    )


@cache
def _update_rows(inbox: Table) -> Executable:
    return update(inbox).where(
        inbox.c.consumer == bindparam("the_consumer"), inbox.c.id == bindparam("the_id")
    )


_LEVEL = text("SELECT current_setting('transaction_isolation')")
_SET_LIMITS = text(
    "SELECT current_setting('transaction_isolation'),"
    " set_config('lock_timeout', :lock, true), set_config('statement_timeout', :total, true),"
    " set_config('idle_in_transaction_session_timeout', :total, true),"
    # From PostgreSQL 17 on. A timer that runs is only set anew after it was stopped.
    " CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL"
    " THEN set_config('transaction_timeout', '0', true)"
    " || set_config('transaction_timeout', :total, true) END"
)
_ROOM = 5.0
"""Seconds between the time of a transaction and the bound at which PostgreSQL ends it."""


def is_postgresql(session: Session) -> bool:
    """Whether the session's database is PostgreSQL; if not, it is SQLite."""
    return session.get_bind().dialect.name == "postgresql"


def limit_waiting(session: Session, lock: float, total: float) -> str:
    """Bound, within this transaction, the wait for a lock (seconds), and the time of a statement,
    of a pause and of the transaction: the seconds `total` and a few more.

    Returns the isolation level. For PostgreSQL; on SQLite the engine bounds the wait for its lock.
    """
    limits = {"lock": f"{lock * 1000:.0f}ms", "total": f"{(total + _ROOM) * 1000:.0f}ms"}
    return str(session.execute(_SET_LIMITS, limits).scalar_one())


def isolation_of(session: Session) -> str:
    """The isolation level of the session's transaction. For PostgreSQL."""
    return str(session.execute(_LEVEL).scalar_one())


def probe(session: Session) -> None:
    """Check the transaction: raises where an earlier error has doomed it."""
    session.execute(text("SELECT 1"))


def insert(session: Session, consumer: str, rows: Sequence[Claim], now: datetime) -> set[str]:
    """Insert the rows, in the order given; returns the ids that were not there before. Waits for
    another transaction that is inserting one of them, until that one has ended."""
    inbox = tables_of(session).inbox
    if is_postgresql(session):
        arrays = {
            "ids": [row.id for row in rows],
            "states": [row.state.value for row in rows],
            "fingerprints": [row.fingerprint for row in rows],
            "barred_bys": [row.barred_by for row in rows],
            "sources": [row.source for row in rows],
            "sagas": [row.saga for row in rows],
            "saga_numbers": [row.saga_number for row in rows],
            "dues": [row.due for row in rows],
        }
        constants = {"consumer": consumer, "received_at": now}
        return set(session.execute(_insert_arrays(inbox), arrays | constants).scalars())
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
    return set(session.execute(_insert_rows(inbox), values).scalars())


def read(session: Session, consumer: str, ids: Collection[str], *, lock: bool) -> dict[str, Row]:
    """The rows with those ids. With `lock` no other transaction changes them before this one ends;
    they are locked in the order of their ids."""
    inbox = tables_of(session).inbox
    columns = (inbox.c.id, inbox.c.state, inbox.c.fingerprint, inbox.c.reply, inbox.c.barred_by)
    statement = (
        select(*columns, inbox.c.saga)
        .where(inbox.c.consumer == consumer, inbox.c.id.in_(ids))
        .order_by(inbox.c.id)
    )
    if lock:
        statement = statement.with_for_update()
    return {
        id: Row(
            id,
            State(state),
            fingerprint,
            None if reply is None else reply_json.loads(reply),
            by,
            saga,
        )
        for id, state, fingerprint, reply, by, saga in session.execute(statement)
    }


def write(session: Session, consumer: str, changes: Sequence[Change]) -> None:
    """Change the rows, in one statement."""
    inbox = tables_of(session).inbox
    replies = [_text(change) for change in changes]
    if is_postgresql(session):
        session.execute(
            _update_arrays(inbox),
            {
                "the_consumer": consumer,
                "ids": [change.id for change in changes],
                "states": [change.state.value for change in changes],
                "replys": replies,
                "barred_bys": [change.barred_by for change in changes],
            },
        )
        return
    session.execute(
        _update_rows(inbox),
        [
            {
                "the_consumer": consumer,
                "the_id": change.id,
                "state": change.state.value,
                "reply": reply,
                "barred_by": change.barred_by,
            }
            for change, reply in zip(changes, replies, strict=True)
        ],
    )


def forget(session: Session, consumer: str, ids: Collection[str]) -> None:
    """Delete the rows with those ids."""
    inbox = tables_of(session).inbox
    session.execute(delete(inbox).where(inbox.c.consumer == consumer, inbox.c.id.in_(ids)))


def watermarks(session: Session, consumer: str) -> Forgotten:
    """The watermarks of this consumer: how far it has forgotten."""
    inbox_watermark = tables_of(session).inbox_watermark
    marks = inbox_watermark.c
    statement = select(marks.source, marks.scope, marks.below, marks.except_ids).where(
        marks.consumer == consumer
    )
    bounds: dict[str, str] = {}
    sagas: dict[str, EndedSagas] = {}
    for source, scope, below, live in session.execute(statement):
        if scope == SAGA:
            sagas[source] = EndedSagas(below, frozenset(orjson.loads(live)))
        else:
            bounds[scope] = below
    return Forgotten(bounds.get(AGE), sagas, bounds.get(BARRED))


def lock_watermarks(session: Session) -> None:
    """Let no other transaction change watermarks before this one ends; others may read on."""
    inbox_watermark = tables_of(session).inbox_watermark
    if is_postgresql(session):
        # A watermark is read and then written.
        session.execute(text(f"LOCK TABLE {in_sql(inbox_watermark)} IN SHARE ROW EXCLUSIVE MODE"))


def _text(change: Change) -> str | None:
    return None if change.reply is None else reply_json.dumps(change.reply).decode()


def set_watermark(
    session: Session, consumer: str, source: str, scope: str, mark: EndedSagas
) -> None:
    """Store a watermark; the caller makes sure that it never covers less than the one before."""
    live = orjson.dumps(sorted(mark.live)).decode()
    upsert(session, consumer, source, scope, mark.before, live)


def upsert(
    session: Session, consumer: str, source: str, scope: str, below: str, except_ids: str
) -> None:
    """Write the row of `inbox_watermark` with that key."""
    inbox_watermark = tables_of(session).inbox_watermark
    insert = postgresql_insert if is_postgresql(session) else sqlite_insert
    statement = insert(inbox_watermark).values(
        consumer=consumer, source=source, scope=scope, below=below, except_ids=except_ids
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["consumer", "source", "scope"],
            set_={
                "below": statement.excluded.below,
                "except_ids": statement.excluded.except_ids,
            },
        )
    )
