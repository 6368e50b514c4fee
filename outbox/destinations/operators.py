"""What an operator does with a whole destination. Every function is a step in the caller's
transaction.

    async with engine.begin() as connection:
        await destinations.resume(connection, "crm")

Nothing leaves for a paused destination, and no attempt is counted; its messages stay in their
order. A relay hears of a pause and of its end within its `poll`. `tables` are those of the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from outbox.adding.installation import destination as named
from outbox.destinations.pause_rows import of_destination, row, stored_once
from outbox.errors import InvalidSelection
from outbox.lanes import PAUSED
from outbox.safe_text import fit
from outbox.tables import DEFAULT_TABLES, Tables

Database: TypeAlias = AsyncConnection | AsyncSession


@dataclass(frozen=True)
class Pause:
    """A destination to which nothing is sent, since when, and why."""

    destination: str
    since: datetime
    reason: str


async def list_paused(database: Database, *, tables: Tables = DEFAULT_TABLES) -> Sequence[Pause]:
    """The paused destinations, by name."""
    held = tables.outbox_held
    found = await database.execute(
        select(held.c.destination, held.c.next_at, held.c.last_error)
        .where(held.c.bucket == PAUSED)
        .order_by(held.c.destination)
    )
    return [Pause(*each) for each in found]


async def pause(
    database: Database,
    destination: str,
    *,
    reason: str,
    now: datetime,
    tables: Tables = DEFAULT_TABLES,
) -> bool:
    """Send nothing to the destination until it is resumed; what is under way ends first. Returns
    whether it was not paused yet: then the first reason stays. `now` is aware.

    Raises OutboxError for a name that no destination can have, and InvalidSelection without a
    reason.
    """
    if not reason.strip():
        raise InvalidSelection(
            f"the pause of {destination} has no reason",
            next_step="say why, for those who find it paused",
        )
    held = tables.outbox_held
    values = row(named(destination), PAUSED, now, fit(reason))
    bound = database.get_bind() if isinstance(database, AsyncSession) else database
    statement = stored_once(held, values, postgres=bound.dialect.name == "postgresql")
    stored = await database.execute(statement.returning(held.c.bucket))
    return stored.first() is not None


async def resume(database: Database, destination: str, *, tables: Tables = DEFAULT_TABLES) -> bool:
    """Send to the destination again, from where it stopped. Returns whether it was paused."""
    held = tables.outbox_held
    mine = of_destination(held, destination, PAUSED)
    was_paused = (await database.execute(select(held.c.bucket).where(mine))).first() is not None
    # The silence begins anew, too: else the next delivery without an answer would pause it again.
    await database.execute(delete(held).where(of_destination(held, destination)))
    return was_paused
