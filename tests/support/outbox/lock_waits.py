"""Waiting for a transaction that waits for another one."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.processes.waiting import until


async def a_transaction_waits(engine: AsyncEngine) -> None:
    """Until a transaction waits for a lock. On SQLite writers queue within the process, where the
    loop has to turn a few times."""
    if engine.dialect.name == "sqlite":
        for _ in range(200):
            await asyncio.sleep(0)
        return

    async def waits() -> bool:
        async with engine.connect() as connection:
            count = await connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
        return bool(count)

    await until(waits, what="a transaction waits for a lock")
