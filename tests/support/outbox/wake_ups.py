"""Several processes that wake each other, as several bells and engines on one PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination.bell import Bell
from outbox.coordination.notifications import channel_of
from outbox.coordination.wake_ups import WakeUps
from outbox.database.table_set import TableSet
from outbox.tables import DEFAULT_TABLES
from tests.support.databases.databases import Database
from tests.support.processes.waiting import until

_LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND query ~ '^(LISTEN|NOTIFY|SELECT 1$)'"
)


def by(driver: str, database: Database) -> Database:
    """The database, with the URL of an AsyncEngine of that driver."""
    return database if driver == "asyncpg" else replace(database, url=database.sync_url)


class Ear:
    """What is notified on a channel, by the process id of the server's that did."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self, _connection: Any, pid: int, _channel: str, _payload: str) -> None:
        self.pids.append(pid)


@asynccontextmanager
async def ear(engine: AsyncEngine, tables: TableSet = DEFAULT_TABLES) -> AsyncIterator[Ear]:
    """What the processes of that installation notify; the engine is one of asyncpg."""
    heard = Ear()
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.add_listener(channel_of(tables), heard)
        try:
            yield heard
        finally:
            await driver.remove_listener(channel_of(tables), heard)


@asynccontextmanager
async def waking(
    engine: AsyncEngine,
    bell: Bell,
    *,
    tables: TableSet = DEFAULT_TABLES,
    is_alone: Callable[[], bool] = lambda: False,
) -> AsyncIterator[None]:
    """A process with that bell, once it listens."""
    rings = bell.rings
    async with WakeUps(engine, bell, tables, is_alone=is_alone).running():
        # It looks once when it listens.
        await until(lambda: bell.rings > rings, what="the process listens")
        yield


async def listeners(engine: AsyncEngine) -> Sequence[int]:
    """The server's process ids of the connections for wake-ups."""
    async with engine.connect() as connection:
        return (await connection.scalars(text(_LISTENERS))).all()


async def end_listeners(engine: AsyncEngine) -> None:
    """Let the server end these connections, all at once."""
    async with engine.begin() as connection:
        await connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({_LISTENERS}) it"))
