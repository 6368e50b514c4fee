"""The databases of `sagabox restored`: which kind each is, and whether its service runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import inspect, select

from orchestrator.cli.services.database_address import database_address
from orchestrator.cli.services.opening import explained, open_for
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.tables import SagaTables, saga_tables
from outbox.clock import SystemClock
from outbox.database.opening import Database
from outbox.database.time import DatabaseClock

_COMMAND = "restored"
_OUTLIVED = timedelta(seconds=15)
"""A lease that was given before a restore has ended by then."""


@dataclass(frozen=True)
class Opened:
    """The database of one service, with the tables that it has."""

    name: str
    """As the service calls itself there; else as it was called on the command line."""
    database: Database
    tables: SagaTables
    is_orchestrator: bool
    has_retention: bool = False
    """An orchestrator's backup may be from before there was such a lease."""

    @property
    def clock(self) -> DatabaseClock:
        """Its time, in SQL."""
        postgres = self.database.engine.dialect.name == "postgresql"
        return DatabaseClock(postgres=postgres, now=SystemClock().now)

    async def time(self) -> datetime:
        """The time of the database."""
        async with self.database.reading.connect() as connection:
            found: datetime = (await connection.execute(select(self.clock.time))).scalar_one()
            return found


@asynccontextmanager
async def opened(name: str, url: str | None, *, option: str) -> AsyncIterator[Opened]:
    """The database of that service. Raises CommandError, InvalidSettings."""
    address = database_address(
        name, url, option=option, without_file=lambda path: f"correct {path}"
    )
    database = open_for(_COMMAND, address)
    tables = saga_tables(database.tables)
    try:
        with explained(name, "start the database, or correct its address"):
            async with database.reading.connect() as connection:
                there = set(
                    await connection.run_sync(
                        lambda it: inspect(it).get_table_names(tables.messaging.schema)
                    )
                )
                if tables.messaging.inbox_watermark.name not in there:
                    raise CommandError(
                        f"the database of {name} has not the tables of a service",
                        "it is new, or that of something else",
                        "correct its address, or restore the backup into it first",
                    )
                owner = await connection.scalar(select(tables.messaging.outbox_service.c.name))
            yield Opened(
                owner or name,
                database,
                tables,
                is_orchestrator=tables.saga.name in there,
                has_retention=tables.saga_retention.name in there,
            )
    finally:
        await database.engine.dispose()


async def require_stopped(it: Opened) -> None:
    """Raises CommandError where a process of the service may be running."""
    messaging = it.tables.messaging
    alive: set[str] = set()
    async with it.database.reading.connect() as connection:
        for place in (messaging.outbox_relay, messaging.outbox_lease):
            query = select(place.c.owner).where(place.c.expires_at > it.clock.time)
            alive.update(owner for owner in await connection.scalars(query) if owner)
    if alive:
        raise CommandError(
            f"{it.name} runs, or ran until a moment ago",
            f"leases of {len(alive)} of its processes have not ended, as of {min(alive)}",
            f"stop all processes of {it.name}, wait {_OUTLIVED.total_seconds():g} s, and repeat "
            "the command",
        )
