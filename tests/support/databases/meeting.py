"""Waits for other transactions of PostgreSQL, so that a test may let them meet."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.processes.waiting import until

_WAITING = text(
    "SELECT count(*) FROM pg_locks "
    "WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
)


async def until_another_waits_for(connection: AsyncConnection) -> None:
    """Wait until another transaction waits for a lock of this one."""
    await until(lambda: connection.scalar(_WAITING), what="the other one waits for the locks")
