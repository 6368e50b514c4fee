"""Scheduled messages by filters: their list, and moving them in time or deleting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Table, delete, func, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.pages import Page, page
from outbox.operations.selection import Selection
from outbox.tables import Tables
from outbox.wire.envelope import with_due

_MOMENT = "occurred_at"


@dataclass(frozen=True)
class ScheduledMessage:
    """A message that does not leave before `due_at`."""

    id: str
    destination: str
    type: str
    key: str
    occurred_at: datetime
    due_at: datetime


async def list_scheduled(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    limit: int,
    cursor: str | None,
) -> Page[ScheduledMessage]:
    """The scheduled messages, the first due first. Raises InvalidSelection for a bad limit or
    cursor."""
    scheduled = tables.outbox_scheduled
    query = select(scheduled).where(*selection.of(scheduled, _MOMENT))
    order = (scheduled.c.due_at, scheduled.c.id, scheduled.c.destination)
    return await page(connection, query, order, _message, limit=limit, cursor=cursor)


async def count(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    but: datetime | None = None,
) -> int:
    """How many there are, without those that are due at the moment `but`."""
    scheduled = tables.outbox_scheduled
    counted = select(func.count()).select_from(scheduled)
    query = counted.where(*selection.of(scheduled, _MOMENT))
    if but is not None:
        query = query.where(scheduled.c.due_at != but)
    return int((await connection.execute(query)).scalar_one())


async def ids_scheduled(
    connection: AsyncConnection, tables: Tables, selection: Selection, *, lock: bool
) -> frozenset[str]:
    """Their ids. With `lock` they stay scheduled until the transaction ends."""
    scheduled = tables.outbox_scheduled
    query = _ordered(scheduled, selection).with_only_columns(scheduled.c.id)
    if lock:
        query = query.with_for_update()
    return frozenset((await connection.scalars(query)).all())


async def move_some(
    connection: AsyncConnection, tables: Tables, selection: Selection, due: datetime
) -> int:
    """Let as many of them as one transaction may be due at that moment, of those that are due at
    another one. Returns how many."""
    scheduled = tables.outbox_scheduled
    rows = await _locked(connection, tables, selection, but=due)
    for row in rows:
        # Its receiver tells its age by the time at which it was due.
        headers = with_due(row["headers"], due, anew=True)
        await connection.execute(
            update(scheduled)
            .where(scheduled.c.id == row["id"], scheduled.c.destination == row["destination"])
            .values(due_at=due, headers=headers)
        )
    return len(rows)


async def drop_some(connection: AsyncConnection, tables: Tables, selection: Selection) -> int:
    """Delete as many of them for good as one transaction may. Returns how many."""
    scheduled = tables.outbox_scheduled
    rows = await _locked(connection, tables, selection)
    if rows:
        gone = [(row["id"], row["destination"]) for row in rows]
        await connection.execute(
            delete(scheduled).where(tuple_(scheduled.c.id, scheduled.c.destination).in_(gone))
        )
    return len(rows)


async def _locked(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    but: datetime | None = None,
) -> Sequence[RowMapping]:
    scheduled = tables.outbox_scheduled
    query = _ordered(scheduled, selection)
    if but is not None:
        query = query.where(scheduled.c.due_at != but)
    query = query.limit(selection.most_at_once).with_for_update()
    rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
    return rows


def _ordered(scheduled: Table, selection: Selection) -> Select[Any]:
    query = select(scheduled).where(*selection.of(scheduled, _MOMENT))
    return query.order_by(scheduled.c.due_at, scheduled.c.id, scheduled.c.destination)


def _message(row: RowMapping) -> ScheduledMessage:
    return ScheduledMessage(
        id=row["id"],
        destination=row["destination"],
        type=row["type"],
        key=row["aggregateid"],
        occurred_at=row["occurred_at"],
        due_at=row["due_at"],
    )
