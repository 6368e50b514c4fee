"""The sessions of a synchronous service and its relay have engines of their own. Where these find
different tables, what is added would stay for ever, and no error would say so."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, text

import outbox
from outbox.tables import metadata
from tests.support.databases.databases import Database
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.services import make_plain_service


def _looking_in(engine: Engine, schema: str) -> None:
    """Let each connection of the engine look in that schema first."""

    @event.listens_for(engine, "connect")
    def look(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION search_path TO {schema}")
        connection.commit()


async def _refused(service: outbox.Service[Any]) -> None:
    with pytest.raises(outbox.InvalidService, match="its relay find different tables of"):
        async with service.running():
            pass
    await service.engine.dispose()


@pytest.mark.databases("postgresql")
async def test_a_listener_that_leads_the_sessions_elsewhere_is_found_at_the_start(
    make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    engine = make_sync_engine(database)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA shop"))
    _looking_in(engine, "shop")
    engine.dispose()
    await _refused(make_plain_service(engine))  # they have no tables there
    with engine.begin() as connection:
        metadata.create_all(connection)
    await _refused(make_plain_service(engine))


async def test_an_engine_for_the_relay_that_is_of_another_database_is_found_at_the_start(
    make_sync_engine: MakeSyncEngine,
    make_engine: MakeEngine,
    database: Database,
    database_factory: DatabaseFactory,
) -> None:
    engine = make_sync_engine(database)
    async with make_plain_service(engine).running():
        pass
    other = make_engine(database_factory("outbox"))
    await _refused(make_plain_service(engine, relay_engine=other))


async def test_one_database_by_two_engines_is_none_of_these(
    make_sync_engine: MakeSyncEngine, make_engine: MakeEngine, database: Database
) -> None:
    service = make_plain_service(make_sync_engine(database), relay_engine=make_engine(database))
    for _ in range(2):
        async with service.running():
            pass
