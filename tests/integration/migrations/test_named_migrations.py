"""`sagabox migrate` for services whose tables have a prefix or a schema, beside tables of another
program that have the library's plain names."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, inspect, text

from articles.app import create_app
from articles.settings import ArticlesSettings
from migrations import commands
from migrations.databases import Database as Address
from migrations.services import SERVICES
from outbox import Tables
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import START, address, at
from tests.support.databases.trapped import set_traps
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.services import SECRETS

NAMES = {
    "prefix": {"SAGABOX_TABLE_PREFIX": "sagabox_"},
    "schema": {"SAGABOX_SCHEMA": "order"},
    "default schema": {"SAGABOX_TABLE_PREFIX": "sagabox_", "SAGABOX_SCHEMA": "public"},
}


@pytest.fixture
def database_schema() -> Schema:
    return set_traps


@pytest.fixture
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


async def _migrate(name: str, place: Address, engine: Engine) -> None:
    """Up, compared, down to nothing but what was there, and up again."""
    service, clock = SERVICES[name], FakeClock(START)
    before = _tables(engine)
    await commands.upgrade(service, place, clock=clock)
    assert (await commands.check(service, place)).differences == []
    with engine.begin() as connection:
        plain = connection.execute(text("SELECT count(*) FROM outbox")).scalar_one()
    assert plain == 0
    await commands.downgrade(service, place, "base", clock=clock, delete_data=True)
    books = place.tables.name("alembic_version")
    assert _tables(engine) - {books} == before - {books}
    await commands.upgrade(service, place, clock=clock)
    assert (await commands.current(service, place)).behind == 0


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


@pytest.mark.parametrize("name", SERVICES)
async def test_a_history_makes_tables_with_a_prefix(
    database: Database, sync_engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_TABLE_PREFIX", "sagabox_")
    await _migrate(name, at(database), sync_engine)
    assert "sagabox_outbox" in _tables(sync_engine)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("names", ["schema", "default schema"])
async def test_a_history_makes_tables_in_a_schema(
    database: Database, sync_engine: Engine, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in NAMES[names].items():
        monkeypatch.setenv(variable, value)
    await _migrate("orchestrator", at(database), sync_engine)


async def test_a_service_starts_on_its_tables_beside_those_of_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGABOX_TABLE_PREFIX", "sagabox_")
    await commands.upgrade(SERVICES["articles"], at(database), clock=FakeClock(START))
    settings = ArticlesSettings(
        database_url=address(database), secrets=SECRETS, table_prefix="sagabox_"
    )
    app = create_app(settings, transports={})
    async with app.router.lifespan_context(app):
        pass


async def test_two_installations_are_checked_each_for_itself(database: Database) -> None:
    for prefix in ("one_", "two_"):
        place = Address(at(database).url, Tables(prefix))
        await commands.upgrade(SERVICES["orchestrator"], place, clock=FakeClock(START))
    for prefix in ("one_", "two_"):
        place = Address(at(database).url, Tables(prefix))
        assert (await commands.check(SERVICES["orchestrator"], place)).differences == []
