"""The list of the commands whose answers come later, for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Column, Select, and_, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from outbox.adding.installation import tables_of
from outbox.database.pages import Page, page_of, paged
from outbox.inbox.pending.rows import time_of_database
from outbox.inbox.rows import State
from outbox.tables import Tables


@dataclass(frozen=True)
class PendingCommand:
    """A command whose answer comes later. Times are UTC; `age` counts from `since`, when it came.

    `source` is who asked for it, and `undoes` are the commands that it undoes. `expected_at` is
    what its handler expected, and `is_overdue` says that this has passed. `attempt` is 0 where no
    call to the outside is made for it; else `holder` is the process that makes the call, until
    `until`, and `is_in_doubt` says that one has ended without an answer, by `last_error`.
    """

    id: str
    type: str
    source: str
    saga: str | None
    key: str
    note: str
    since: datetime
    age: timedelta
    expected_at: datetime | None
    is_overdue: bool
    undoes: tuple[str, ...]
    attempt: int
    holder: str | None
    until: datetime | None
    is_in_doubt: bool
    last_error: str | None

    def as_json(self) -> dict[str, Any]:
        """The same for programs; its times as ISO 8601, `age` in seconds."""
        fields = {it.name: _json_of(getattr(self, it.name)) for it in dataclasses.fields(self)}
        return fields | {"age": self.age.total_seconds(), "undoes": list(self.undoes)}


def list_pending(
    session: Session, consumer: str, now: datetime, *, limit: int, cursor: str | None
) -> Page[PendingCommand]:
    """What is pending at that consumer, oldest first. Raises InvalidSelection for a bad limit or
    cursor."""
    order = _order(tables_of(session))
    statement = paged(_pending(session, consumer, now), order, limit=limit, cursor=cursor)
    rows = session.execute(statement).mappings().all()
    return page_of(rows, order, _command, limit=limit)


def _order(tables: Tables) -> Sequence[Column[Any]]:
    return tables.inbox_pending.c.since, tables.inbox_pending.c.id


def _pending(session: Session, consumer: str, now: datetime) -> Select[Any]:
    inbox, inbox_pending = tables_of(session).inbox, tables_of(session).inbox_pending
    at = inbox_pending.c
    # A call that was undone, or waited for no longer, is kept, since its success may still come.
    own = and_(inbox.c.consumer == at.consumer, inbox.c.id == at.id)
    return (
        select(inbox_pending, time_of_database(session, now).label("read_at"))
        .join(inbox, own)
        .where(at.consumer == consumer, inbox.c.state == State.PENDING.value)
    )


def _command(row: RowMapping) -> PendingCommand:
    since, expected_at, now = row["since"], row["expected_at"], row["read_at"]
    return PendingCommand(
        **{name: row[name] for name in _AS_STORED},
        age=max(timedelta(), now - since),
        is_overdue=expected_at is not None and expected_at < now,
        undoes=tuple(orjson.loads(row["undoes"])),
    )


def _json_of(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


_AS_STORED = (
    *("id", "type", "source", "saga", "key", "note", "since", "expected_at"),
    *("attempt", "holder", "until", "is_in_doubt", "last_error"),
)
