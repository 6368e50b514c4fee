"""Keys that wait behind a message that failed, by filters on that message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Select,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.column_types import UtcDateTime
from outbox.database.pages import Page, page
from outbox.database.time import DatabaseClock
from outbox.errors import BelongsToSaga
from outbox.lanes import BLOCKED, Lane, lane_of
from outbox.operations.dead_rows import saga_of
from outbox.operations.selection import Selection
from outbox.safe_text import fit
from outbox.tables import DEFAULT_TABLES, Tables

_LOOKED_AT = 5000
_DEAD = tuple(
    it.name
    for it in DEFAULT_TABLES.outbox_dead.c
    if it.name in DEFAULT_TABLES.outbox.c and it.name != "seq"
)


@dataclass(frozen=True)
class HeldMessage:
    """The first message of a key that waits after a failure. `type` and `occurred_at` are None
    where the message is gone. `next_at` is its next attempt; None where the key is blocked, until
    an operator redrives or drops the message."""

    destination: str
    key: str
    lane: str
    id: str
    type: str | None
    occurred_at: datetime | None
    attempts: int
    next_at: datetime | None
    is_blocked: bool
    last_error: str


async def list_held(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    only_blocked: bool = False,
    limit: int,
    cursor: str | None,
) -> Page[HeldMessage]:
    """The first messages of keys that wait, by destination, bucket and key. Raises InvalidSelection
    for a bad limit or cursor."""
    held = tables.outbox_held
    query = chosen(tables, selection)
    if only_blocked:
        query = query.where(held.c.next_at >= BLOCKED)
    return await page(connection, query, _order(held), _message, limit=limit, cursor=cursor)


async def count_behind(connection: AsyncConnection, tables: Tables, held: HeldMessage) -> int:
    """How many messages wait behind that one, among the first 5,000 of their bucket."""
    key = tables.outbox_held
    query = select(key.c.bucket).where(
        key.c.destination == held.destination,
        key.c.aggregateid == held.key,
        key.c.head_id == held.id,
    )
    bucket = (await connection.execute(query)).scalar()
    if bucket is None:
        return 0
    total = 0
    for table in (tables.outbox, tables.outbox_parked):
        some = (
            select(table.c.id, table.c.aggregateid)
            .where(table.c.destination == held.destination, table.c.bucket == bucket)
            .order_by(table.c.seq)
            .limit(_LOOKED_AT)
            .subquery()
        )
        counted = select(func.count()).where(some.c.aggregateid == held.key, some.c.id != held.id)
        total += (await connection.execute(counted)).scalar_one()
    return total


async def count_held(connection: AsyncConnection, tables: Tables, selection: Selection) -> int:
    """How many messages `free_some` would free."""
    found = _freed(tables, selection).subquery()
    return int((await connection.execute(select(func.count()).select_from(found))).scalar_one())


async def ids_held(
    connection: AsyncConnection, tables: Tables, selection: Selection, *, lock: bool
) -> frozenset[str]:
    """The ids of these messages. With `lock` they hold their keys until the transaction ends."""
    if lock:
        return frozenset(row["head_id"] for row in await _locked(connection, tables, selection))
    found = await connection.execute(_freed(tables, selection))
    return frozenset(row["head_id"] for row in found.mappings())


async def require_may_be_dropped(
    connection: AsyncConnection, tables: Tables, selection: Selection
) -> None:
    """Raises BelongsToSaga where one of these messages, named by its id, is the command of a saga:
    its run waits for the answer, and is told only of what the relay gives up. What blocks its key
    is of no saga."""
    if not selection.ids:
        return
    headers = _of_head(tables, "headers", Text()).label("headers")
    rows = await connection.execute(_freed(tables, selection).add_columns(headers))
    for row in rows.mappings():
        if row["headers"] is not None and (saga := saga_of(row["headers"])) is not None:
            raise BelongsToSaga(
                f"the message {row['head_id']} is a command of the saga {saga}, and its run waits "
                "for the answer",
                next_step=f"wait until it is given up, or cancel or terminate the saga {saga}",
            )


async def free_some(
    connection: AsyncConnection, tables: Tables, selection: Selection, *, now: datetime
) -> int:
    """Let as many of these messages as one transaction may be tried at once: those that block their
    keys, with all attempts before them, and by their ids also those whose keys rest. Returns how
    many."""
    rows = await _locked(connection, tables, selection)
    held = tables.outbox_held
    for row in rows:
        tried: dict[str, Any] = {"next_at": _as_relays_have(connection, now)}
        if row["next_at"] >= BLOCKED:
            tried |= {"attempts": 0}
        await connection.execute(update(held).where(_is(held, row)).values(tried))
    return len(rows)


async def drop_some(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    now: datetime,
    buried_by: str | None = None,
) -> int:
    """Delete as many of these messages for good as one transaction may, or with `buried_by`, the
    name of the operator, make dead letters of them; the later messages of their keys go on. Returns
    how many.

    The same messages as of `free_some`.
    """
    rows = await _locked(connection, tables, selection)
    held = tables.outbox_held
    for row in rows:
        for table in (tables.outbox, tables.outbox_parked):
            message = and_(
                table.c.destination == row["destination"],
                table.c.bucket == row["bucket"],
                table.c.aggregateid == row["aggregateid"],
                table.c.id == row["head_id"],
            )
            if buried_by is not None:
                await _bury(connection, tables, table, message, row, buried_by, now)
            await connection.execute(delete(table).where(message))
        # Its relay finds the next message of the key, or that there is none.
        due = _as_relays_have(connection, now)
        await connection.execute(update(held).where(_is(held, row)).values(next_at=due, attempts=0))
    return len(rows)


def _as_relays_have(connection: AsyncConnection, now: datetime) -> ColumnElement[datetime]:
    """The time now, as the relays have it: the clock of this machine may be another."""
    return DatabaseClock(postgres=connection.dialect.name == "postgresql", now=lambda: now).time


async def _bury(
    connection: AsyncConnection,
    tables: Tables,
    table: Table,
    message: ColumnElement[bool],
    row: RowMapping,
    by: str,
    now: datetime,
) -> None:
    reason = fit(f"given up by {by}; the last: {row['last_error']}")
    columns = (*(table.c[name] for name in _DEAD), literal(reason), literal(row["attempts"]))
    chosen = select(*columns, literal(now, UtcDateTime())).where(message)
    names = [*_DEAD, "reason", "attempts", "died_at"]
    await connection.execute(insert(tables.outbox_dead).from_select(names, chosen))


async def _locked(
    connection: AsyncConnection, tables: Tables, selection: Selection
) -> Sequence[RowMapping]:
    held = tables.outbox_held
    query = _freed(tables, selection).order_by(*_order(held)).limit(selection.most_at_once)
    locking = query.with_for_update(of=held)
    if selection.ids:
        # Once more, since another operator may have dropped the message before the lock was had.
        await connection.execute(locking)
    rows: Sequence[RowMapping] = (await connection.execute(locking)).mappings().all()
    return rows


def _freed(tables: Tables, selection: Selection) -> Select[Any]:
    """The blocked keys of these messages; where ids say which, those that rest, too. A key whose
    message was dropped rests no longer, though its relay has not found that yet."""
    held = tables.outbox_held
    is_blocked = held.c.next_at >= BLOCKED
    if selection.ids:
        is_there = _of_head(tables, "seq", Integer()).is_not(None)
        return chosen(tables, selection).where(or_(is_blocked, is_there))
    return chosen(tables, selection).where(is_blocked)


def chosen(tables: Tables, selection: Selection) -> Select[Any]:
    """The keys that wait, with the type and the time of the message that each waits behind."""
    held = tables.outbox_held
    type_ = _of_head(tables, "type", String())
    moment = _of_head(tables, "occurred_at", UtcDateTime())
    conditions = selection.conditions(
        destination=held.c.destination,
        type=type_,
        key=held.c.aggregateid,
        id=held.c.head_id,
        moment=moment,
    )
    return select(held, type_.label("type"), moment.label("occurred_at")).where(
        held.c.bucket >= 0, *conditions
    )


def _of_head(tables: Tables, name: str, as_: Any) -> ColumnElement[Any]:
    """A column of the first message, wherever it is."""
    held = tables.outbox_held
    found = [
        select(table.c[name])
        .where(
            table.c.destination == held.c.destination,
            table.c.bucket == held.c.bucket,
            table.c.aggregateid == held.c.aggregateid,
            table.c.id == held.c.head_id,
        )
        .limit(1)
        .correlate(held)
        .scalar_subquery()
        for table in (tables.outbox_parked, tables.outbox)
    ]
    return func.coalesce(*found, type_=as_)


def _order(held: Table) -> tuple[Column[Any], ...]:
    return held.c.destination, held.c.bucket, held.c.aggregateid


def _is(held: Table, row: RowMapping) -> ColumnElement[bool]:
    return and_(
        held.c.destination == row["destination"],
        held.c.bucket == row["bucket"],
        held.c.aggregateid == row["aggregateid"],
    )


def _message(row: RowMapping) -> HeldMessage:
    is_blocked = row["next_at"] >= BLOCKED
    return HeldMessage(
        destination=row["destination"],
        key=row["aggregateid"],
        lane=Lane(lane_of(row["bucket"])).name.lower(),
        id=row["head_id"],
        type=row["type"],
        occurred_at=row["occurred_at"],
        attempts=row["attempts"],
        next_at=None if is_blocked else row["next_at"],
        is_blocked=is_blocked,
        last_error=row["last_error"],
    )
