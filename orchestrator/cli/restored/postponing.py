"""The deadlines of a restored orchestrator's runs, put off until the runs have caught up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.cli.restored.opening import Opened
from orchestrator.store.records import postponed

_CHUNK = 500


@dataclass(frozen=True)
class Postponed:
    """The runs that live, and how many got more time, until then. `unread` are the ids of those
    whose row this code cannot read."""

    service: str
    live: int
    postponed: int
    until: datetime
    unread: Sequence[str]


async def postpone(orchestrator: Opened, grace: timedelta) -> Postponed:
    """Let no deadline of a live run count before the grace is over."""
    until = await orchestrator.time() + grace
    saga = orchestrator.tables.saga
    live, changed, last = 0, 0, None
    unread: list[str] = []
    while True:
        page = (
            select(saga.c.id, saga.c.document, saga.c.revision)
            .where(orchestrator.tables.has_begun)
            .order_by(saga.c.id)
            .limit(_CHUNK)
        )
        async with orchestrator.database.engine.begin() as connection:
            rows = (
                await connection.execute(page if last is None else page.where(saga.c.id > last))
            ).all()
            for row in rows:
                try:
                    changed += await _give_time(connection, orchestrator, row, until)
                except ValueError:
                    unread.append(row.id)
        live += len(rows)
        if len(rows) < _CHUNK:
            return Postponed(orchestrator.name, live, changed, until, unread)
        last = rows[-1].id


async def _give_time(
    connection: AsyncConnection, orchestrator: Opened, row: Any, until: datetime
) -> int:
    document, first = postponed(row.document, until)
    if document == row.document:
        return 0
    saga = orchestrator.tables.saga
    result = await connection.execute(
        update(saga)
        .where(saga.c.id == row.id, saga.c.revision == row.revision)
        .values(document=document, due_at=first, revision=row.revision + 1)
    )
    return result.rowcount
