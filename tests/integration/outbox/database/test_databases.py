"""Each test gets databases and engines of its own, and must give back what it took."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Database, Engines, Kind, Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine

_made: list[str] = []


def a_note(connection: Connection) -> None:
    _made.append(connection.dialect.name)
    connection.execute(text("CREATE TABLE note (text VARCHAR(50))"))


@pytest.fixture
def database_schema() -> Schema | str:
    return a_note


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_test_does_not_see_what_another_wrote(engine: AsyncEngine, turn: int) -> None:
    async with engine.begin() as connection:
        assert (await connection.scalar(text("SELECT count(*) FROM note"))) == 0
        await connection.execute(text(f"INSERT INTO note VALUES ('of turn {turn}')"))


def test_a_schema_is_made_once_and_then_copied(
    database_factory: DatabaseFactory, database: Database
) -> None:
    before = len(_made)
    others = [database_factory(a_note) for _ in range(3)]
    assert len({database.url, *(it.url for it in others)}) == 4
    assert len(_made) == before
    assert _made.count(database.kind) == 1


def test_a_test_may_have_databases_of_several_schemas(
    database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine
) -> None:
    tables = {
        schema: inspect(make_sync_engine(database_factory(schema))).get_table_names()
        for schema in ("empty", "outbox")
    }
    assert tables["empty"] == []
    assert "outbox" in tables["outbox"]
    assert "inbox" in tables["outbox"]


def test_an_unknown_schema_is_refused_with_the_names_of_the_known_ones(
    database_factory: DatabaseFactory,
) -> None:
    with pytest.raises(LookupError, match=r"no schema 'gibberish'.*empty, outbox"):
        database_factory("gibberish")


@pytest.mark.databases("sqlite", "postgresql", "older-postgresql")
def test_the_marker_chooses_the_databases(
    database: Database, database_kind: str, make_sync_engine: MakeSyncEngine
) -> None:
    assert (database.kind is Kind.SQLITE) == (database_kind == "sqlite")
    assert (database.server is None) == (database_kind == "sqlite")
    with make_sync_engine(database).connect() as connection:
        version = connection.dialect.server_version_info
    assert version is not None
    if database.server is not None:
        assert version[0] == database.server.major
        assert (version[0] < 18) == (database_kind == "older-postgresql")


async def test_an_asynchronous_connection_that_is_not_given_back_fails_the_test(
    database: Database,
) -> None:
    engines = Engines()
    connection = await engines.asynchronous(database).connect()
    with pytest.raises(AssertionError, match="still checked out"):
        await engines.close()
    await connection.invalidate()
    await connection.close()


async def test_a_synchronous_connection_that_is_not_given_back_fails_the_test(
    database: Database,
) -> None:
    engines = Engines()
    connection = engines.synchronous(database).connect()
    with pytest.raises(AssertionError, match="still checked out"):
        await engines.close()
    connection.invalidate()
    connection.close()


async def test_connections_that_were_given_back_or_given_up_are_fine(database: Database) -> None:
    engines = Engines()
    engine = engines.asynchronous(database)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
    async with engine.connect() as connection:
        await connection.invalidate()
    with engines.synchronous(database).connect() as other:
        other.execute(text("SELECT 1"))
    await engines.close()


@pytest.mark.databases("sqlite")
async def test_an_engine_for_sqlite_is_configured_as_the_library_wants_it(
    make_engine: MakeEngine, make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    async with make_engine(database).connect() as connection:
        assert (await connection.scalar(text("PRAGMA journal_mode"))) == "wal"
    with make_sync_engine(database).connect() as other:
        assert other.scalar(text("PRAGMA journal_mode")) == "wal"
