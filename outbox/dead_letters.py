"""Dead letters and resting keys: list them, send again, delete, wake.

Every function is a step in the caller's transaction. Messages keep their ids and their due times,
so a receiver that took one after all recognises it, or answers that it is too old to tell. What
died of that is sent again by `redrive_as_new` alone, once an operator has made sure that it did not
take effect.

They are in `tables`; where these are not given, in those of the session's installation.

    async with engine.begin() as connection:
        await dead_letters.redrive(connection, [letter.id])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson
from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    delete,
    insert,
    not_,
    select,
    tuple_,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.adding.installation import tables_of
from outbox.database.pages import DEFAULT_LIMIT, Page, page
from outbox.errors import BelongsToSaga, ForgottenByReceiver, InvalidSelection, NoSuchMessage
from outbox.ids import is_id
from outbox.replies import Outcome
from outbox.tables import DEFAULT_TABLES, Tables
from outbox.wire.envelope import with_due

Database: TypeAlias = AsyncConnection | AsyncSession

MAX_AT_ONCE = 1000
"""The most messages that one call moves or deletes."""

# As the relay begins the reason of what was answered so.
_TOO_OLD = Outcome.TOO_OLD.value
_MOVED = tuple(it.name for it in DEFAULT_TABLES.outbox_dead.c if it.name in DEFAULT_TABLES.outbox.c)


@dataclass(frozen=True)
class DeadLetter:
    """A message that was given up for one destination, and the reason. `payload` is its JSON."""

    id: str
    destination: str
    type: str
    key: str
    payload: str
    saga: str | None
    """The saga whose command it is; a saga's command cannot be redriven here."""
    reason: str
    attempts: int
    occurred_at: datetime
    died_at: datetime

    @property
    def is_too_old(self) -> bool:
        """Whether its receiver cannot tell whether it took effect: it is redriven only as new."""
        return self.reason.startswith(_TOO_OLD)


@dataclass(frozen=True)
class RestingKey:
    """An order key that rests until the next attempt at its first message."""

    destination: str
    bucket: int
    key: str
    message_id: str
    attempts: int
    next_at: datetime
    last_error: str


async def list_dead(
    database: Database,
    *,
    destination: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    tables: Tables | None = None,
) -> Page[DeadLetter]:
    """Dead letters, the last buried first. Raises InvalidSelection for a bad limit or cursor."""
    outbox_dead = (tables or _tables_of(database)).outbox_dead
    order = (outbox_dead.c.died_at, outbox_dead.c.id, outbox_dead.c.destination)
    query = _rows_for(outbox_dead, destination)
    return await page(database, query, order, _letter, limit=limit, cursor=cursor, descending=True)


async def redrive(
    database: Database,
    ids: Collection[str],
    *,
    destination: str | None = None,
    tables: Tables | None = None,
) -> int:
    """Put these dead letters back into the outbox, each to the end of its queue with all attempts
    before it. Returns how many. An id that died for several destinations goes to each of them, or
    only to `destination`. The relay finds them when it next looks.

    All or none: raises InvalidSelection, NoSuchMessage, BelongsToSaga or ForgottenByReceiver,
    naming the first id that is wrong, before anything changes.
    """
    tables = tables or _tables_of(database)
    rows = await _chosen(database, tables, ids, destination)
    for row in rows:
        if row["reason"].startswith(_TOO_OLD):
            raise ForgottenByReceiver(
                f"{row['destination']} called the message {row['id']} too-old: it has forgotten "
                "what it took at that time, and would say so again",
                next_step="find out whether it took effect there; where it did not, send it as a "
                "new message: dead_letters.redrive_as_new",
            )
    return await _move_back(database, tables, rows)


async def _chosen(
    database: Database, tables: Tables, ids: Collection[str], destination: str | None
) -> Sequence[RowMapping]:
    """The dead letters that may be sent again, at least as new ones. Raises as `redrive` does."""
    outbox_dead = tables.outbox_dead
    wanted = _checked(ids)
    chosen: ColumnElement[bool] = outbox_dead.c.id.in_(wanted)
    if destination is not None:
        chosen &= outbox_dead.c.destination == destination
    rows = await _locked(database, outbox_dead, chosen, None)
    if missing := sorted(set(wanted) - {row["id"] for row in rows}):
        where = "" if destination is None else f" for {destination}"
        raise NoSuchMessage(
            f"{len(missing)} of the {len(wanted)} messages are no dead letters{where}, the first "
            f"of them {missing[0]}",
            next_step="list the dead letters; it may have been sent again or deleted already",
        )
    for row in rows:
        if (saga := _saga_of(row["headers"])) is not None:
            raise BelongsToSaga(
                f"the message {row['id']} is a command of the saga {saga}, which may have given it "
                "up or undone it since",
                next_step=f"retry the step of the saga {saga} instead",
            )
    return rows


async def redrive_as_new(
    database: Database,
    ids: Collection[str],
    *,
    new_id: Callable[[], str],
    now: datetime,
    destination: str | None = None,
    tables: Tables | None = None,
) -> Mapping[str, str]:
    """As `redrive`, but under new ids and due now; the new ids by the old ones.

    To a receiver each is another message: it takes effect there, also where the one under the old
    id did. An id that died for several destinations gets one new id for all of them.
    """
    tables = tables or _tables_of(database)
    rows = await _chosen(database, tables, ids, destination)
    renamed = {id: new_id() for id in sorted({row["id"] for row in rows})}
    await _insert(
        database,
        tables,
        [
            {
                **row,
                "id": renamed[row["id"]],
                "headers": with_due(row["headers"], now, anew=True),
            }
            for row in _in_order(rows)
        ],
    )
    await _delete(database, tables, rows)
    return renamed


async def redrive_all(
    database: Database,
    destination: str,
    *,
    limit: int = MAX_AT_ONCE,
    tables: Tables | None = None,
) -> int:
    """As `redrive` for all dead letters of `destination`, except commands of sagas and what the
    receiver called too-old, the first buried first. It moves at most `limit` and returns how many:
    call it until it returns 0."""
    tables = tables or _tables_of(database)
    outbox_dead = tables.outbox_dead
    _check_limit(limit)
    is_too_old = outbox_dead.c.reason.startswith(_TOO_OLD)
    # The keys of JSON as the library writes it; within a text the quotes would be escaped.
    headers = outbox_dead.c.headers
    of_saga = and_(headers.contains('"replyto":'), headers.contains('"correlationid":'))
    chosen = and_(outbox_dead.c.destination == destination, not_(of_saga), not_(is_too_old))
    return await _move_back(database, tables, await _locked(database, outbox_dead, chosen, limit))


async def purge_dead(
    database: Database,
    *,
    before: datetime,
    destination: str | None = None,
    limit: int = MAX_AT_ONCE,
    tables: Tables | None = None,
) -> int:
    """Delete for good the dead letters buried before that moment (aware), the first buried first.
    It deletes at most `limit` and returns how many: call it until it returns 0."""
    tables = tables or _tables_of(database)
    outbox_dead = tables.outbox_dead
    _check_limit(limit)
    if before.tzinfo is None:
        raise InvalidSelection(
            f"{before.isoformat()} has no time zone, so it is no moment",
            next_step="give the time with its zone, such as 2030-01-31T12:00:00Z",
        )
    chosen: ColumnElement[bool] = outbox_dead.c.died_at < before
    if destination is not None:
        chosen &= outbox_dead.c.destination == destination
    rows = await _locked(database, outbox_dead, chosen, limit)
    await _delete(database, tables, rows)
    return len(rows)


async def list_held(
    database: Database,
    *,
    destination: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    tables: Tables | None = None,
) -> Page[RestingKey]:
    """Keys that rest, by destination, bucket and key. Raises InvalidSelection as `list_dead`."""
    outbox_held = (tables or _tables_of(database)).outbox_held
    order = (outbox_held.c.destination, outbox_held.c.bucket, outbox_held.c.aggregateid)
    query = _rows_for(outbox_held, destination)
    return await page(database, query, order, _resting, limit=limit, cursor=cursor)


def _rows_for(table: Table, destination: str | None) -> Select[Any]:
    query = select(table)
    return query if destination is None else query.where(table.c.destination == destination)


async def release(
    database: Database,
    destination: str,
    key: str,
    *,
    now: datetime,
    tables: Tables | None = None,
) -> int:
    """Let a resting key be tried at once, in each lane where it rests. Returns how many lanes.

    The attempts so far still count. Raises NoSuchMessage where the key does not rest.
    """
    outbox_held = (tables or _tables_of(database)).outbox_held
    # Only ever earlier: a rest that is over already keeps its place in the queue.
    resting = and_(outbox_held.c.destination == destination, outbox_held.c.aggregateid == key)
    found = (await database.execute(select(outbox_held.c.bucket).where(resting))).all()
    if not found:
        raise NoSuchMessage(
            f"the key {key!r} does not rest for {destination}",
            next_step="list the held keys; its message may have left or died in the meantime",
        )
    await database.execute(
        update(outbox_held).where(resting, outbox_held.c.next_at > now).values(next_at=now)
    )
    return len(found)


async def _locked(
    database: Database, outbox_dead: Table, chosen: ColumnElement[bool], limit: int | None
) -> Sequence[RowMapping]:
    """The rows, oldest first, locked until the transaction ends."""
    query = (
        select(outbox_dead)
        .where(chosen)
        .order_by(outbox_dead.c.died_at, outbox_dead.c.id, outbox_dead.c.destination)
        .limit(limit)
        .with_for_update()
    )
    return (await database.execute(query)).mappings().all()


async def _move_back(database: Database, tables: Tables, rows: Sequence[RowMapping]) -> int:
    await _insert(database, tables, [dict(row) for row in _in_order(rows)])
    await _delete(database, tables, rows)
    return len(rows)


def _in_order(rows: Sequence[RowMapping]) -> list[RowMapping]:
    """The rows in the order in which they were made, which their sequence numbers no longer
    tell."""
    return sorted(rows, key=lambda row: (row["occurred_at"], row["id"], row["destination"]))


async def _insert(database: Database, tables: Tables, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await database.execute(
            insert(tables.outbox), [{name: row[name] for name in _MOVED} for row in rows]
        )


async def _delete(database: Database, tables: Tables, rows: Sequence[RowMapping]) -> None:
    outbox_dead = tables.outbox_dead
    if rows:
        gone = [(row["id"], row["destination"]) for row in rows]
        await database.execute(
            delete(outbox_dead).where(tuple_(outbox_dead.c.id, outbox_dead.c.destination).in_(gone))
        )


def _tables_of(database: Database) -> Tables:
    match database:
        case AsyncSession():
            return tables_of(database.sync_session)
        case AsyncConnection():
            connection = database.sync_connection
            return DEFAULT_TABLES if connection is None else tables_of(connection)


def _letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        destination=row["destination"],
        type=row["type"],
        key=row["aggregateid"],
        payload=row["payload"],
        saga=_saga_of(row["headers"]),
        reason=row["reason"],
        attempts=row["attempts"],
        occurred_at=row["occurred_at"],
        died_at=row["died_at"],
    )


def _resting(row: RowMapping) -> RestingKey:
    return RestingKey(
        destination=row["destination"],
        bucket=row["bucket"],
        key=row["aggregateid"],
        message_id=row["head_id"],
        attempts=row["attempts"],
        next_at=row["next_at"],
        last_error=row["last_error"],
    )


def _saga_of(headers: str) -> str | None:
    try:
        known: Any = orjson.loads(headers)
    except orjson.JSONDecodeError:
        # Perhaps it died for this very reason; it must be shown all the same.
        return None
    if not isinstance(known, dict) or "replyto" not in known:
        return None
    return known.get("correlationid")


def _checked(ids: Collection[str]) -> list[str]:
    wanted = sorted(set(ids))
    if not 0 < len(wanted) <= MAX_AT_ONCE:
        raise InvalidSelection(
            f"{len(wanted)} ids were given", next_step=f"give between 1 and {MAX_AT_ONCE}"
        )
    for each in wanted:
        if not is_id(each):
            raise InvalidSelection(
                f"{each[:50]!r} is not the id of a message",
                next_step="give ids as the list of dead letters shows them",
            )
    return wanted


def _check_limit(limit: int) -> None:
    if not 0 < limit <= MAX_AT_ONCE:
        raise InvalidSelection(
            f"the limit is {limit}", next_step=f"choose one between 1 and {MAX_AT_ONCE}"
        )
