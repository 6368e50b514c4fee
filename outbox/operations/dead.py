"""Dead letters by filters: their list, their count, and sending them again or deleting them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.pages import Page, page
from outbox.dead_letters import DeadLetter, letter_of
from outbox.operations.dead_rows import (
    delete_rows,
    is_of_saga,
    is_too_old,
    locked,
    move_back,
    move_back_as_new,
)
from outbox.operations.selection import Selection
from outbox.tables import Tables

_MOMENT = "died_at"


@dataclass(frozen=True)
class Counted:
    """How many dead letters fit a selection: commands of sagas, others that their receiver called
    too-old, and the rest."""

    of_sagas: int
    too_old: int
    others: int


async def list_letters(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    limit: int,
    cursor: str | None,
) -> Page[DeadLetter]:
    """The dead letters, the last buried first. Raises InvalidSelection for a bad limit or
    cursor."""
    dead = tables.outbox_dead
    query = select(dead).where(*selection.of(dead, _MOMENT))
    order = (dead.c.died_at, dead.c.id, dead.c.destination)
    return await page(
        connection, query, order, letter_of, limit=limit, cursor=cursor, descending=True
    )


async def count(connection: AsyncConnection, tables: Tables, selection: Selection) -> Counted:
    """How many there are of each kind."""
    dead = tables.outbox_dead
    kind = case((is_of_saga(dead), "saga"), (is_too_old(dead), "old"), else_="other")
    kinds = select(kind.label("kind")).where(*selection.of(dead, _MOMENT)).subquery()
    counted = select(kinds.c.kind, func.count()).group_by(kinds.c.kind)
    found = {name: number for name, number in await connection.execute(counted)}
    return Counted(found.get("saga", 0), found.get("old", 0), found.get("other", 0))


async def redrive_some(connection: AsyncConnection, tables: Tables, selection: Selection) -> int:
    """Send as many of them again as one transaction may, under their own ids, the first buried
    first; commands of sagas and what is too-old stay. Returns how many."""
    dead = tables.outbox_dead
    chosen = (*selection.of(dead, _MOMENT), not_(is_of_saga(dead)), not_(is_too_old(dead)))
    rows = await locked(connection, dead, chosen, selection.most_at_once)
    return await move_back(connection, tables, rows)


async def redrive_some_as_new(
    connection: AsyncConnection,
    tables: Tables,
    selection: Selection,
    *,
    renamed: dict[str, str],
    new_id: Callable[[], str],
    now: datetime,
) -> int:
    """The same under new ids, what is too-old with the others. `renamed` has the new ids of earlier
    transactions by the old ones, and gets those of this one: an id that died for several
    destinations has one new id for all of them."""
    dead = tables.outbox_dead
    chosen = (*selection.of(dead, _MOMENT), not_(is_of_saga(dead)))
    rows = await locked(connection, dead, chosen, selection.most_at_once)
    known = renamed.copy()
    renamed |= await move_back_as_new(
        connection, tables, rows, lambda id: known.get(id) or new_id(), now
    )
    return len(rows)


async def drop_some(connection: AsyncConnection, tables: Tables, selection: Selection) -> int:
    """Delete as many of them for good as one transaction may, the first buried first. Returns how
    many."""
    dead = tables.outbox_dead
    rows = await locked(connection, dead, selection.of(dead, _MOMENT), selection.most_at_once)
    await delete_rows(connection, tables, rows)
    return len(rows)
