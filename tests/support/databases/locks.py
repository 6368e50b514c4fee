"""Locks of PostgreSQL that one connection holds and another one waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.processes.waiting import until

_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def until_it_waits(engine: AsyncEngine, task: asyncio.Task[Any]) -> None:
    """Return as soon as the task waits for a lock of another one, or is over without having done
    so. It must be the only one that uses the database meanwhile."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")

        async def waits() -> bool:
            return task.done() or bool(await connection.scalar(_WAITING))

        await until(waits, what="the task waits for a lock, or is over")
