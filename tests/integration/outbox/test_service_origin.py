"""The id by which a service's database is known to those that it sends to."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.ids import is_id
from outbox.service import origin
from outbox.service.origin import origin_of
from outbox.tables import outbox_service
from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.outbox.inboxes import ledger_schema
from tests.support.outbox.services import make_service


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


async def ids_on(engine: AsyncEngine) -> tuple[str | None, str | None]:
    """The ids of the tables and of the database, as a service on it tells them."""
    service = make_service(engine)
    async with service.running():
        return service.database_id, service.origin_id


async def test_it_is_the_same_at_each_start(engine: AsyncEngine) -> None:
    before = await ids_on(engine)
    assert all(map(is_id, before))
    assert await ids_on(engine) == before


async def test_a_copy_has_the_ids_of_its_original_but_for_the_place_where_it_is(
    database_factory: DatabaseFactory, make_engine: MakeEngine, database_kind: str
) -> None:
    original, copy = (make_engine(database_factory(ledger_schema)) for _ in range(2))
    tables, database = await ids_on(original)
    async with original.connect() as connection:
        claim = (await connection.execute(select(outbox_service))).mappings().one()
    async with copy.begin() as connection:
        await connection.execute(insert(outbox_service).values(**claim))
    tables_of_copy, copied = await ids_on(copy)
    assert tables_of_copy == tables
    assert (copied != database) is (database_kind == "postgresql")


@pytest.mark.databases("postgresql")
async def test_a_server_that_does_not_say_which_it_is_is_left_out(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function is not there, or may not be called."""
    _, database = await ids_on(engine)
    asked = str(origin._TELLS_SERVER).replace("pg_control_system()", "pg_not_there()")
    monkeypatch.setattr(origin, "_TELLS_SERVER", text(asked))
    monkeypatch.setattr(origin, "_SERVER", text("SELECT 1 / 0"))
    without = await origin_of(engine, str(database))
    assert is_id(without)
    assert without == await origin_of(engine, str(database))
