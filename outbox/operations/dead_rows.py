"""The rows of dead letters: which may be sent again, their way back into the outbox, their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import orjson
from sqlalchemy import ColumnElement, Select, Table, and_, delete, insert, select, tuple_
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.errors import BelongsToSaga, ForgottenByReceiver
from outbox.replies import Outcome
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.wire.envelope import with_due

Database: TypeAlias = AsyncConnection | AsyncSession

TOO_OLD = Outcome.TOO_OLD.value
"""How the relay begins the reason of what was answered so."""
_MOVED = tuple(it.name for it in DEFAULT_TABLES.outbox_dead.c if it.name in DEFAULT_TABLES.outbox.c)


def is_too_old(outbox_dead: Table) -> ColumnElement[bool]:
    """Whether the receiver called it too-old."""
    return outbox_dead.c.reason.startswith(TOO_OLD)


def is_of_saga(outbox_dead: Table) -> ColumnElement[bool]:
    """Whether it is the command of a saga."""
    # The keys of JSON as the library writes it; within a text the quotes would be escaped.
    headers = outbox_dead.c.headers
    return and_(headers.contains('"replyto":'), headers.contains('"correlationid":'))


def saga_of(headers: str) -> str | None:
    """The saga whose command has these headers; None where it is of none."""
    try:
        known: Any = orjson.loads(headers)
    except orjson.JSONDecodeError:
        # Perhaps it died for this very reason; it must be shown all the same.
        return None
    if not isinstance(known, dict) or "replyto" not in known:
        return None
    return known.get("correlationid")


def require_may_go(row: RowMapping, *, as_new: bool) -> None:
    """Raises BelongsToSaga where this dead letter is the command of a saga, and ForgottenByReceiver
    where it is too-old, and not to be sent `as_new`."""
    if (saga := saga_of(row["headers"])) is not None:
        raise BelongsToSaga(
            f"the message {row['id']} is a command of the saga {saga}, which may have given it up "
            "or undone it since",
            next_step=f"retry the step of the saga {saga} instead",
        )
    if row["reason"].startswith(TOO_OLD) and not as_new:
        raise ForgottenByReceiver(
            f"{row['destination']} called the message {row['id']} too-old: it has forgotten what "
            "it took at that time, and would say so again",
            next_step="find out whether it took effect there; where it did not, send it as a new "
            "message: dead_letters.redrive_as_new",
        )


async def locked(
    database: Database, outbox_dead: Table, chosen: Sequence[ColumnElement[bool]], limit: int | None
) -> Sequence[RowMapping]:
    """The rows, the first buried first, locked until the transaction ends."""
    query = _locking(outbox_dead, chosen).limit(limit)
    rows: Sequence[RowMapping] = (await database.execute(query)).mappings().all()
    return rows


async def ids_dead(
    database: Database, outbox_dead: Table, chosen: Sequence[ColumnElement[bool]], *, lock: bool
) -> frozenset[str]:
    """The ids of these rows. With `lock` they stay until the transaction ends."""
    query = _locking(outbox_dead, chosen) if lock else select(outbox_dead).where(*chosen)
    query = query.with_only_columns(outbox_dead.c.id)
    return frozenset((await database.execute(query)).scalars().all())


def _locking(outbox_dead: Table, chosen: Sequence[ColumnElement[bool]]) -> Select[Any]:
    # In one order, so that two operators do not wait for each other.
    order = outbox_dead.c.died_at, outbox_dead.c.id, outbox_dead.c.destination
    return select(outbox_dead).where(*chosen).order_by(*order).with_for_update()


async def move_back(database: Database, tables: Tables, rows: Sequence[RowMapping]) -> int:
    """Put these rows back into the outbox under their own ids; returns how many."""
    await _insert(database, tables, [dict(row) for row in _in_order(rows)])
    await delete_rows(database, tables, rows)
    return len(rows)


async def move_back_as_new(
    database: Database,
    tables: Tables,
    rows: Sequence[RowMapping],
    new_id: Callable[[str], str],
    now: datetime,
) -> Mapping[str, str]:
    """Put these rows back under new ids, due now; the new ids by the old ones. `new_id` takes an
    old id."""
    renamed = {id: new_id(id) for id in sorted({row["id"] for row in rows})}
    new = [
        {**row, "id": renamed[row["id"]], "headers": with_due(row["headers"], now, anew=True)}
        for row in _in_order(rows)
    ]
    await _insert(database, tables, new)
    await delete_rows(database, tables, rows)
    return renamed


async def delete_rows(database: Database, tables: Tables, rows: Sequence[RowMapping]) -> None:
    """Delete these rows."""
    outbox_dead = tables.outbox_dead
    if rows:
        gone = [(row["id"], row["destination"]) for row in rows]
        await database.execute(
            delete(outbox_dead).where(tuple_(outbox_dead.c.id, outbox_dead.c.destination).in_(gone))
        )


def _in_order(rows: Sequence[RowMapping]) -> list[RowMapping]:
    """The rows in the order in which they were made, which their sequence numbers no longer
    tell."""
    return sorted(rows, key=lambda row: (row["occurred_at"], row["id"], row["destination"]))


async def _insert(database: Database, tables: Tables, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await database.execute(
            insert(tables.outbox), [{name: row[name] for name in _MOVED} for row in rows]
        )
