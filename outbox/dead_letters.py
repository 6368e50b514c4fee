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
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    not_,
    select,
    update,
)
from sqlalchemy.engine import RowMapping

from outbox.adding.installation import tables_in
from outbox.database.pages import DEFAULT_LIMIT, Page, page
from outbox.errors import InvalidSelection, NoSuchMessage
from outbox.ids import is_id
from outbox.lanes import BLOCKED
from outbox.operations.dead_rows import (
    TOO_OLD,
    Database,
    delete_rows,
    is_of_saga,
    is_too_old,
    locked,
    move_back,
    move_back_as_new,
    require_may_go,
    saga_of,
)
from outbox.tables import Tables

MAX_AT_ONCE = 1000
"""The most messages that one call moves or deletes."""


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
        return self.reason.startswith(TOO_OLD)


@dataclass(frozen=True)
class RestingKey:
    """An order key that rests until the next attempt at its first message; one that `is_blocked`
    rests until an operator redrives or drops that message."""

    destination: str
    bucket: int
    key: str
    message_id: str
    attempts: int
    next_at: datetime
    last_error: str

    @property
    def is_blocked(self) -> bool:
        """Whether there is no next attempt; `next_at` means nothing then."""
        return self.next_at >= BLOCKED


async def list_dead(
    database: Database,
    *,
    destination: str | None = None,
    ids: tuple[str, str] | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    tables: Tables | None = None,
) -> Page[DeadLetter]:
    """Dead letters, the last buried first; `ids` are the first and the last that there may be.
    Raises InvalidSelection for a bad limit or cursor."""
    outbox_dead = (tables or tables_in(database)).outbox_dead
    order = (outbox_dead.c.died_at, outbox_dead.c.id, outbox_dead.c.destination)
    query = _rows_for(outbox_dead, destination)
    if ids is not None:
        query = query.where(outbox_dead.c.id.between(*ids))
    return await page(
        database, query, order, letter_of, limit=limit, cursor=cursor, descending=True
    )


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
    tables = tables or tables_in(database)
    rows = await _chosen(database, tables, ids, destination)
    for row in rows:
        require_may_go(row, as_new=False)
    return await move_back(database, tables, rows)


async def _chosen(
    database: Database, tables: Tables, ids: Collection[str], destination: str | None
) -> Sequence[RowMapping]:
    """The dead letters that may be sent again, at least as new ones. Raises as `redrive` does."""
    outbox_dead = tables.outbox_dead
    wanted = _checked(ids)
    chosen: ColumnElement[bool] = outbox_dead.c.id.in_(wanted)
    if destination is not None:
        chosen &= outbox_dead.c.destination == destination
    rows = await locked(database, outbox_dead, [chosen], None)
    if missing := sorted(set(wanted) - {row["id"] for row in rows}):
        where = "" if destination is None else f" for {destination}"
        raise NoSuchMessage(
            f"{len(missing)} of the {len(wanted)} messages are no dead letters{where}, the first "
            f"of them {missing[0]}",
            next_step="list the dead letters; it may have been sent again or deleted already",
        )
    for row in rows:
        require_may_go(row, as_new=True)
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
    tables = tables or tables_in(database)
    rows = await _chosen(database, tables, ids, destination)
    return await move_back_as_new(database, tables, rows, lambda _: new_id(), now)


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
    tables = tables or tables_in(database)
    outbox_dead = tables.outbox_dead
    _check_limit(limit)
    chosen = (
        outbox_dead.c.destination == destination,
        not_(is_of_saga(outbox_dead)),
        not_(is_too_old(outbox_dead)),
    )
    return await move_back(database, tables, await locked(database, outbox_dead, chosen, limit))


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
    tables = tables or tables_in(database)
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
    rows = await locked(database, outbox_dead, [chosen], limit)
    await delete_rows(database, tables, rows)
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
    outbox_held = (tables or tables_in(database)).outbox_held
    order = (outbox_held.c.destination, outbox_held.c.bucket, outbox_held.c.aggregateid)
    query = _rows_for(outbox_held, destination).where(outbox_held.c.bucket >= 0)
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
    outbox_held = (tables or tables_in(database)).outbox_held
    # Only ever earlier: a rest that is over already keeps its place in the queue.
    resting = and_(
        outbox_held.c.destination == destination,
        outbox_held.c.aggregateid == key,
        outbox_held.c.bucket >= 0,
    )
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


def letter_of(row: RowMapping) -> DeadLetter:
    """The dead letter of a row of all columns of its table."""
    return DeadLetter(
        id=row["id"],
        destination=row["destination"],
        type=row["type"],
        key=row["aggregateid"],
        payload=row["payload"],
        saga=saga_of(row["headers"]),
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
