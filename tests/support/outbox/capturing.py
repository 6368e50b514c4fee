"""What waits in the outbox for a reader of the log."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import tables


async def waiting(engine: AsyncEngine) -> list[str]:
    """The keys of the messages in the outbox, in their order."""
    async with engine.connect() as connection:
        found = select(tables.outbox.c.aggregateid).order_by(tables.outbox.c.seq)
        return list((await connection.scalars(found)).all())
