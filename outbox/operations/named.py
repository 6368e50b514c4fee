"""The messages that a selection names by their ids: which there are, and whether they all are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.errors import NoSuchMessage
from outbox.operations import held as held_messages
from outbox.operations.dead_rows import ids_dead, require_may_go
from outbox.operations.scheduled import ids_scheduled
from outbox.operations.selection import Selection
from outbox.tables import Tables


async def ids_between(
    connection: AsyncConnection,
    tables: Tables,
    first: str,
    last: str,
    *,
    scheduled: bool = False,
    most: int,
) -> Mapping[str, str]:
    """Up to `most` ids from the first to the last, of dead letters and as many of messages that
    hold their keys, or of scheduled ones; each with its destination."""
    held = tables.outbox_held
    columns = [(tables.outbox_dead, tables.outbox_dead.c.id), (held, held.c.head_id)]
    if scheduled:
        columns = [(tables.outbox_scheduled, tables.outbox_scheduled.c.id)]
    found: dict[str, str] = {}
    for table, id in columns:
        query = select(id, table.c.destination).where(id.between(first, last))
        if table is held:
            query = query.where(held.c.bucket >= 0)
        rows = await connection.execute(query.order_by(id).limit(most))
        found |= {each: destination for each, destination in rows}
    return found


async def require_letters_may_go(
    connection: AsyncConnection, tables: Tables, selection: Selection, *, as_new: bool
) -> None:
    """Raises BelongsToSaga and ForgottenByReceiver where such a dead letter is named by its id."""
    if not selection.ids:
        return
    dead = tables.outbox_dead
    query = select(dead.c.id, dead.c.destination, dead.c.reason, dead.c.headers)
    rows = await connection.execute(query.where(*selection.of(dead, "died_at")))
    for row in rows.mappings():
        require_may_go(row, as_new=as_new)


async def require_ids(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    letters: bool = True,
    held: bool = True,
    lock: bool,
) -> None:
    """Raises NoSuchMessage where an id is that of no dead letter and holds no key, of those of the
    two that are looked for. With `lock` what is found stays so until the transaction ends."""
    if not selection.ids:
        return
    known: set[str] = set()
    if letters:
        dead = tables.outbox_dead
        known |= await ids_dead(connection, dead, selection.of(dead, "died_at"), lock=lock)
    if held:
        known |= await held_messages.ids_held(connection, tables, selection, lock=lock)
    _require_all(
        selection, known, " and ".join(["is no dead letter"] * letters + ["holds no key"] * held)
    )


async def require_scheduled(
    connection: AsyncConnection, tables: Tables, selection: Selection, *, lock: bool
) -> None:
    """Raises NoSuchMessage where an id is that of no scheduled message. With `lock` those that are
    found stay scheduled until the transaction ends."""
    if selection.ids:
        known = await ids_scheduled(connection, tables, selection, lock=lock)
        _require_all(selection, known, "is not scheduled")


def _require_all(selection: Selection, known: Collection[str], what: str) -> None:
    missing = [each for each in selection.ids if each not in known]
    if missing:
        raise NoSuchMessage(
            f"the message {missing[0]} {what}, or does not fit the other filters",
            next_step="list them; it may have left, or been sent again or deleted in the meantime",
        )
