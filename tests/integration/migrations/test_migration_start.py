"""A service starts on a database that its code can use, and on no other."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import Engine, text

from articles.app import create_app
from articles.settings import ArticlesSettings
from migrations import commands
from outbox.errors import SchemaMissing, SchemaNewer, SchemaOlder
from outbox.testing import FakeClock
from tests.support.blog.blog import SECRETS
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import START, Histories, address, at, migrated
from tests.support.fixtures import DatabaseFactory


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("articles")


def _start(database: Database) -> AbstractAsyncContextManager[object]:
    settings = ArticlesSettings(database_url=address(database), secrets=SECRETS)
    app = create_app(settings, transports={})
    return app.router.lifespan_context(app)


async def test_it_starts_on_what_the_migrations_made(database: Database) -> None:
    async with _start(database):
        pass


async def test_it_refuses_an_empty_database_with_the_command_that_mends_it(
    database_factory: DatabaseFactory,
) -> None:
    with pytest.raises(SchemaMissing, match="sagabox migrate upgrade articles"):
        async with _start(database_factory("empty")):
            pass


async def test_it_refuses_an_older_database_with_the_command_that_mends_it(
    database: Database, sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        connection.execute(text("DELETE FROM schema_revision WHERE revision = 'articles_0005'"))
    with pytest.raises(SchemaOlder, match="sagabox migrate upgrade articles"):
        async with _start(database):
            pass


async def test_it_starts_on_a_newer_database_that_only_grew(
    database: Database, histories: Histories
) -> None:
    histories.add(up="op.add_column('articles', sa.Column('subtitle', sa.Text()))", kind="expand")
    await commands.upgrade(histories.service(), at(database), clock=FakeClock(START))
    async with _start(database):
        pass


async def test_it_refuses_a_newer_database_that_lost_something(
    database: Database, histories: Histories
) -> None:
    histories.add(up="pass", kind="expand")
    histories.add(up="op.drop_column('articles', 'legal_hold')", kind="contract")
    await commands.upgrade(histories.service(), at(database), clock=FakeClock(START))
    with pytest.raises(SchemaNewer, match="articles_0007"):
        async with _start(database):
            pass


async def test_it_starts_again_when_that_was_taken_back(
    database: Database, histories: Histories
) -> None:
    add = "op.add_column('articles', sa.Column('legal_hold', sa.Text()))"
    histories.add(up="op.drop_column('articles', 'legal_hold')", down=add, kind="contract")
    service, clock = histories.service(), FakeClock(START)
    await commands.upgrade(service, at(database), clock=clock)
    await commands.downgrade(service, at(database), "-1", clock=clock)
    async with _start(database):
        pass
