"""The tables of an embedded orchestrator, made by the migrations of the service itself."""

from __future__ import annotations

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from migrations import commands
from migrations.errors import MigrationError
from migrations.services import SERVICES
from orchestrator import schema
from orchestrator.embedding.attach import TABLES
from orchestrator.tables import SCHEMA_REVISION, saga_tables
from outbox.errors import SchemaMissing, SchemaOlder
from outbox.schema import differences
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import START, at
from tests.support.orchestrator.embedded import TRANSFER, Transfer, bank
from tests.support.outbox.inboxes import ledger_schema


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


def up_to(number: int) -> Schema:
    """A migration of the service up to that version."""

    def migrate(connection: Connection) -> None:
        schema.upgrade(operations(connection), to=number, tables=TABLES)

    return migrate


def operations(connection: Connection) -> Operations:
    return Operations(MigrationContext.configure(connection))


def names(connection: Connection) -> set[str]:
    return {it for it in inspect(connection).get_table_names() if it.startswith(TABLES.prefix)}


async def test_a_migration_of_the_service_makes_what_the_orchestrator_needs(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(up_to(schema.LATEST))
    one = bank(engine)
    async with one.running():
        run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        assert (await run.wait(20)).status == "COMPLETED"
    async with engine.connect() as connection:
        assert await connection.run_sync(differences, TABLES) == []
        wanted = {*TABLES.metadata.tables, *saga_tables(TABLES).metadata.tables}
        assert await connection.run_sync(names) == {it.rpartition(".")[2] for it in wanted}


async def test_it_is_taken_back_to_where_it_began(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(up_to(schema.LATEST))
        await connection.run_sync(
            lambda it: schema.downgrade(operations(it), to=2, start=schema.LATEST, tables=TABLES)
        )
        assert TABLES.name("saga_token") in await connection.run_sync(names)
        await connection.run_sync(
            lambda it: schema.downgrade(operations(it), to=0, start=2, tables=TABLES)
        )
        assert await connection.run_sync(names) == set()


async def test_missing_tables_are_told_with_the_migration_that_makes_them(
    engine: AsyncEngine,
) -> None:
    wanted = rf"orchestrator\.schema\.upgrade\(op, to={schema.LATEST}, tables=outbox\.Tables\("
    with pytest.raises(SchemaMissing, match=wanted + "prefix='orchestrator_'"):
        async with bank(engine).running():
            raise AssertionError
    async with engine.begin() as connection:
        await connection.run_sync(up_to(schema.LATEST - 1))
    with pytest.raises(SchemaOlder, match=wanted):
        async with bank(engine).running():
            raise AssertionError


def test_the_versions_are_the_revisions_of_the_bundled_migrations() -> None:
    assert f"orchestrator_{schema.LATEST:04}" == SCHEMA_REVISION
    with pytest.raises(ValueError, match="no way from version 0 to version 99"):
        schema.upgrade(None, to=99)


async def test_its_tables_are_compared_and_left_to_the_history_that_made_them(
    engine: AsyncEngine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_TABLE_PREFIX", TABLES.prefix)
    service, clock = SERVICES["orchestrator"], FakeClock(START)
    async with engine.begin() as connection:
        await connection.run_sync(up_to(schema.LATEST - 1))
    assert (await commands.current(service, at(database))).behind == 1
    with pytest.raises(MigrationError, match="a history other than this one"):
        await commands.upgrade(service, at(database), clock=clock)
    with pytest.raises(MigrationError, match="a history other than this one"):
        await commands.downgrade(service, at(database), "base", clock=clock, delete_data=True)
    async with engine.begin() as connection:
        await connection.run_sync(
            lambda it: schema.upgrade(operations(it), start=schema.LATEST - 1, tables=TABLES)
        )
    assert (await commands.check(service, at(database))).differences == []


async def test_a_history_of_another_program_is_not_taken_for_newer_code(
    engine: AsyncEngine, database: Database
) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(up_to(schema.LATEST))
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('7054fd83a6aa')"))
    with pytest.raises(MigrationError) as refused:
        await commands.check(SERVICES["orchestrator"], at(database))
    assert "another program" in refused.value.happened
    assert "SAGABOX_TABLE_PREFIX=orchestrator_" in refused.value.next_step
