"""A database whose time is that of a test's clock, also on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from orchestrator.testing.simulating import on_database
from outbox import sqlite
from outbox.clock import Clock
from tests.support.databases.databases import Database, Kind, Schema


def in_time(schema: Schema) -> Schema:
    """The schema, with the functions that stand for PostgreSQL's clock."""

    def made(connection: Connection) -> None:
        schema(connection)
        if connection.dialect.name == "postgresql":
            for statement in on_database.FOR_POSTGRES:
                connection.execute(text(statement))

    return made


@asynccontextmanager
async def engine_in_time(database: Database, clock: Clock) -> AsyncIterator[AsyncEngine]:
    """An engine on a database of such a schema, whose transactions find the clock's time."""
    if database.kind is Kind.SQLITE:
        # SQLite has no time of its own: the stores are handed the clock.
        engine = create_async_engine(database.url)
        sqlite.configure(engine)
    else:
        settings = {"search_path": on_database.SEARCH_PATH}
        engine = create_async_engine(database.url, connect_args={"server_settings": settings})

        @event.listens_for(engine.sync_engine, "begin")
        def tell_time(connection: Connection) -> None:
            now = clock.now().isoformat()
            connection.exec_driver_sql(f"SELECT set_config('simulated.now', '{now}', false)")

    try:
        yield engine
    finally:
        await engine.dispose()
