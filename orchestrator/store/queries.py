"""What is read of runs, without working on them. Each function is one or two statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Row, Select, Text, bindparam, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from orchestrator.machine.instance import Status
from orchestrator.tables import SagaTables, saga_tables
from outbox.database.opening import Database
from outbox.database.pages import Wanted, cut, newest
from outbox.tables import Tables

COUNTED_UP_TO = 100_000
"""Runs of one status that are counted, at most."""


@dataclass(frozen=True)
class RefusedStart:
    """A start that began nothing, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Tombstone:
    """What is left of a run that was removed: it is known by `id`, had the id `saga_id`, and ended
    with that status. `archive_id` is the file that it is in, if any."""

    id: str
    saga_id: str
    ended: Status
    archive_id: str | None


@dataclass(frozen=True)
class Filter:
    """Which runs are asked for: those that have every property that is given. `made_before` is
    about their beginning; `ids` are the first and the last one that there may be."""

    statuses: Sequence[Status] = ()
    name: str | None = None
    key: str | None = None
    made_before: datetime | None = None
    ids: tuple[str, str] | None = None


@dataclass(frozen=True)
class Standing:
    """How far a run is: its status, how many lines its history has, and whether it has ended."""

    status: Status
    entries: int
    has_ended: bool


class _Statements:
    """The statements on one installation's tables."""

    def __init__(self, tables: SagaTables) -> None:
        saga, alias, line = tables.saga.c, tables.saga_alias.c, tables.saga_history.c
        id: BindParameter[str] = bindparam("id")
        self.one = select(tables.saga).where(saga.id == id)
        known = (alias.saga_id, alias.reason, alias.ended, alias.archive_id)
        self.alias = select(*known).where(alias.id == id)
        self.below = select(tables.saga_retention.c.below)
        self.standing = select(saga.status, saga.entries, saga.ended_at).where(saga.id == id)
        # What a list does not show can be large.
        self.list = select(*(it for it in saga if it.name not in ("state", "document")))
        self.history = (
            select(tables.saga_history)
            .where(line.saga_id == id, line.number > bindparam("after"))
            .order_by(line.number)
        )
        self.counts = _counts(tables)


@cache
def _on(tables: Tables) -> _Statements:
    return _Statements(saga_tables(tables))


async def find(database: Database, id: str) -> Row[Any] | RefusedStart | Tombstone | None:
    """The row of that run, or of the one that it is an alias of: then their ids differ. Of one that
    was removed lately, its tombstone."""
    statements = _on(database.tables)
    async with database.reading.connect() as connection:
        row = (await connection.execute(statements.one, {"id": id})).first()
        if row is not None:
            return row
        alias = (await connection.execute(statements.alias, {"id": id})).first()
        if alias is None:
            return None
        if alias.saga_id is None:
            return RefusedStart(id, alias.reason or "it was refused")
        if alias.ended is not None:
            return Tombstone(id, alias.saga_id, Status(alias.ended), alias.archive_id)
        return (await connection.execute(statements.one, {"id": alias.saga_id})).first()


async def may_be_removed(database: Database, id: str) -> bool:
    """Whether an absent id is so old that its run may have been removed."""
    async with database.reading.connect() as connection:
        below = await connection.scalar(_on(database.tables).below)
    return below is not None and id < below


async def standing(database: Database, id: str) -> Standing | None:
    """How far that very run is."""
    async with database.reading.connect() as connection:
        row = (await connection.execute(_on(database.tables).standing, {"id": id})).first()
    if row is None:
        return None
    return Standing(Status(row.status), row.entries, row.ended_at is not None)


async def live_numbers(
    session: AsyncSession, tables: Tables, since: str, before: str, most: int
) -> Sequence[str]:
    """The numbers of runs that have begun and not ended, that one or greater and smaller than
    `before`: the smallest `most`. Commands of old code tell a run by its id alone, so ids are among
    them."""
    sagas = saga_tables(tables)
    saga = sagas.saga
    found: set[str] = set()
    for told_by in (saga.c.id, saga.c.number):
        statement = (
            select(told_by)
            .where(sagas.has_begun, told_by >= since, told_by < before)
            .order_by(told_by)
            .limit(most)
        )
        found.update((await session.scalars(statement)).all())
    return sorted(found)[:most]


async def page(
    database: Database, wanted: Wanted, filter: Filter
) -> tuple[Sequence[Row[Any]], str | None]:
    """Runs without their state, newest first, and the cursor of the next page, if any."""
    saga = saga_tables(database.tables).saga
    query: Select[*tuple[Any, ...]] = _on(database.tables).list
    if filter.statuses:
        query = query.where(saga.c.status.in_([it.value for it in filter.statuses]))
    if filter.name is not None:
        query = query.where(saga.c.name == filter.name)
    if filter.key is not None:
        query = query.where(saga.c.key == filter.key)
    if filter.ids is not None:
        query = query.where(saga.c.id.between(*filter.ids))
    if filter.made_before is not None:
        has_begun = saga.c.status != Status.SCHEDULED.value
        query = query.where(has_begun, saga.c.created_at <= filter.made_before)
    async with database.reading.connect() as connection:
        return await newest(connection, query, saga.c.id, wanted)


async def history(
    database: Database, id: str, *, after: int = 0, limit: int
) -> tuple[Sequence[Row[Any]], int | None]:
    """The lines behind number `after`, oldest first, and the number that the next page is behind,
    if there is one."""
    async with database.reading.connect() as connection:
        statement = _on(database.tables).history.limit(limit + 1)
        found = await connection.execute(statement, {"id": id, "after": after})
        shown, last = cut(found.all(), limit)
    return shown, None if last is None else last.number


async def counts(database: Database) -> dict[tuple[str, Status], int]:
    """How many runs of each definition have each status. Of one status, the newest
    `COUNTED_UP_TO` are counted."""
    async with database.reading.connect() as connection:
        rows = (await connection.execute(_on(database.tables).counts)).all()
    return {(row.name, Status(row.status)): row.runs for row in rows}


def _counts(tables: SagaTables) -> Select[*tuple[Any, ...]]:
    saga = tables.saga
    parts = []
    for status in Status:
        newest = (
            select(saga.c.name)
            .where(saga.c.status == status.value)
            .order_by(saga.c.id.desc())
            .limit(COUNTED_UP_TO)
            .subquery()
        )
        parts.append(
            select(
                newest.c.name,
                literal(status.value, Text, literal_execute=True).label("status"),
                func.count().label("runs"),
            ).group_by(newest.c.name)
        )
    found = union_all(*parts).subquery()
    return select(found)
