"""The same histories on real databases, with the real statements and the real inbox: each must be,
step by step, the one that the dicts gave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from orchestrator import tables
from orchestrator.sagas.delete_article import delete_article
from orchestrator.testing.simulating import on_database, with_inbox
from orchestrator.testing.simulating.on_database import OnDatabase
from orchestrator.testing.simulating.runner import happen
from orchestrator.testing.simulating.shapes import made_up
from orchestrator.testing.simulating.world import World
from orchestrator.testing.virtual.storage import InMemory
from outbox import sqlite
from outbox import tables as library
from tests.support.databases.databases import Database, Kind, Schema
from tests.support.repository.reporting import Count

HISTORIES = {Kind.SQLITE: 60, Kind.POSTGRESQL: 40}
MORE = 40
"""So many times more in a long run."""


def everything(connection: Connection) -> None:
    """All tables, and on PostgreSQL the functions that stand for its clock."""
    for metadata in (library.metadata, tables.metadata, with_inbox.metadata):
        metadata.create_all(connection)
    if connection.dialect.name == "postgresql":
        for statement in on_database.FOR_POSTGRES:
            connection.execute(text(statement))


class LikePostgres(InMemory):
    is_postgres = True

    def ended(self, before: str, asked_for: Collection[str]) -> None:
        """Nothing, as on the database."""

    def retention(self, *_: Any) -> None:
        """No run is removed, as on the database."""


class LikeSqlite(InMemory):
    is_postgres = False

    def ended(self, before: str, asked_for: Collection[str]) -> None:
        """Nothing, as on the database."""

    def retention(self, *_: Any) -> None:
        """No run is removed, as on the database."""


@pytest.fixture
def database_schema() -> Schema:
    return everything


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    if database.kind is Kind.SQLITE:
        engine = create_async_engine(database.url)
        sqlite.configure(engine)

        @event.listens_for(engine.sync_engine, "connect")
        def load_dice(connection: Any, _: object) -> None:
            connection.run_async(lambda raw: raw.create_function("random", 0, lambda: 0))
    else:
        settings = {"search_path": on_database.SEARCH_PATH}
        engine = create_async_engine(database.url, connect_args={"server_settings": settings})
    yield engine
    await engine.dispose()


async def run_both(engine: AsyncEngine, seeds: range) -> None:
    in_memory = LikePostgres if engine.dialect.name == "postgresql" else LikeSqlite
    for seed in seeds:
        sagas = [delete_article] if seed % 3 == 0 else [made_up(seed)]
        await OnDatabase.empty(engine)
        real = await World(seed, sagas, partial(OnDatabase, engine)).run()
        virtual = happen(World(seed, sagas, in_memory))
        assert real.broken is None, f"seed {seed}: {real.broken}"
        assert real.trace == virtual.trace, f"seed {seed}"


async def test_a_history_is_the_same_on_a_real_database(
    engine: AsyncEngine, database: Database, count: Count
) -> None:
    seeds = range(HISTORIES[database.kind])
    await run_both(engine, seeds)
    count(f"random histories on {database.kind}", len(seeds))


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_thousands_of_histories_are_the_same_on_a_real_database(
    engine: AsyncEngine, database: Database, soak_minutes: float, count: Count
) -> None:
    first = HISTORIES[database.kind]
    seeds = range(first, first + int(first * MORE * soak_minutes / 10))
    await run_both(engine, seeds)
    count(f"random histories on {database.kind}", len(seeds))
