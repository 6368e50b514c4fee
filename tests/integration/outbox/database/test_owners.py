"""The library's tables belong to one service, by its name."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox import Tables, TablesOfAnother, schema
from outbox.inbox.rows import State
from outbox.tables import inbox, outbox_service
from outbox.testing import FakeClock
from tests.support.databases.databases import Database
from tests.support.databases.locks import until_it_waits
from tests.support.fixtures import MakeEngine
from tests.support.outbox.inboxes import START, Names
from tests.support.outbox.services import make_service

NOW = FakeClock().now()


async def _owner(engine: AsyncEngine) -> str | None:
    async with engine.connect() as connection:
        owner: str | None = await connection.scalar(select(outbox_service.c.name))
        return owner


async def test_the_first_start_takes_the_tables_and_another_service_is_refused(
    engine: AsyncEngine,
) -> None:
    async with make_service(engine, "till").running():
        assert await _owner(engine) == "till"
    async with make_service(engine, "till").running():
        pass
    with pytest.raises(
        TablesOfAnother, match=r"belong to the service till.*outbox.Tables\(prefix=.*rename_service"
    ):
        async with make_service(engine, "bank").running():
            pass
    assert await _owner(engine) == "till"


async def test_another_service_has_tables_of_its_own_in_the_same_database(
    engine: AsyncEngine,
) -> None:
    tables = Tables("bank_")
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.create_all)
    till, bank = make_service(engine, "till"), make_service(engine, "bank", tables=tables)
    async with till.running(), bank.running():
        assert await _owner(engine) == "till"


async def test_of_services_that_start_first_at_once_one_gets_the_tables(
    database: Database, make_engine: MakeEngine
) -> None:
    names = [f"service-{number}" for number in range(6)]
    starts = [schema.claim_tables(make_engine(database), name, NOW) for name in names]
    ends = await asyncio.gather(*starts, return_exceptions=True)
    refused = [it for it in ends if isinstance(it, TablesOfAnother)]
    assert (len(refused), ends.count(NOW)) == (len(names) - 1, 1)
    assert await _owner(make_engine(database)) == names[ends.index(NOW)]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_two_first_starts_at_once_are_both_let_in_at_every_level_of_the_engine(
    engine: AsyncEngine, level: str
) -> None:
    strict = create_async_engine(engine.url, isolation_level=level)
    async with engine.begin() as connection:
        first = insert(outbox_service).values(only=1, name="till", since=NOW)
        await connection.execute(first)
        second = asyncio.create_task(schema.claim_tables(strict, "till", NOW))
        await until_it_waits(engine, second)
    await second
    await strict.dispose()


async def test_a_renamed_service_keeps_its_tables_and_knows_what_it_took(
    engine: AsyncEngine,
) -> None:
    await schema.claim_tables(engine, "till", NOW)
    id = Names(START - timedelta(days=1))()
    row = {"consumer": "till", "id": id, "state": State.RAN, "source": "a", "received_at": START}

    def rename(connection: Connection) -> None:
        connection.execute(insert(inbox).values(row))
        op = Operations(MigrationContext.configure(connection))
        schema.rename_service(op, "till", "shop")

    async with engine.begin() as connection:
        await connection.run_sync(rename)
    async with make_service(engine, "shop").running(), engine.connect() as connection:
        assert (await connection.scalars(select(inbox.c.consumer))).all() == ["shop"]
