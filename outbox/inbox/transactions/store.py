"""The SQL of the inbox, each function in the caller's transaction; `claiming` and `questions` have
their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import orjson
from sqlalchemy import (
    ColumnElement,
    Executable,
    Table,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.database.column_types import given
from outbox.database.table_set import in_sql
from outbox.inbox.retention import Forgotten
from outbox.inbox.rows import Change, Row, State
from outbox.wire import reply_json
from outbox.wire.settled import EndedSagas

AGE, SAGA, BARRED, RESTORED = "age", "saga", "barred", "restored"

_Id = Uuid(as_uuid=False)


def run_number(inbox: Table) -> ColumnElement[str]:
    """The number of the saga that a row belongs to."""
    return func.coalesce(inbox.c.saga_number, inbox.c.saga, type_=_Id)


_changed = given({"id": _Id, "state": Text(), "reply": Text(), "barred_by": _Id})


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


def is_postgresql(session: Session) -> bool:
    """Whether the session's database is PostgreSQL; if not, it is SQLite."""
    return session.get_bind().dialect.name == "postgresql"


def probe(session: Session) -> None:
    """Check the transaction: raises where an earlier error has doomed it."""
    session.execute(text("SELECT 1"))


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
    sagas: dict[str, dict[str, EndedSagas]] = {SAGA: {}, RESTORED: {}}
    for source, scope, below, live in session.execute(statement):
        if scope in sagas:
            sagas[scope][source] = EndedSagas(below, frozenset(orjson.loads(live)))
        else:
            bounds[scope] = below
    return Forgotten(bounds.get(AGE), sagas[SAGA], bounds.get(BARRED), sagas[RESTORED])


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
