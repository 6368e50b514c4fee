"""A downgrade that would delete something says what, and waits to be told that it may."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import DBAPIError

from migrations import commands, losses
from migrations.errors import MigrationError
from outbox import tables
from outbox.clock import Clock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import (
    START,
    Histories,
    add_article,
    address,
    at,
    migrate,
    migrated,
    tables_of,
    titles,
)

pytestmark = pytest.mark.slow

_ADD_SUBTITLE = "op.add_column('articles', sa.Column('subtitle', sa.Text()))"
_DROP_SUBTITLE = "op.drop_column('articles', 'subtitle')"


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("articles")


def test_a_downgrade_that_would_delete_rows_says_so_and_changes_nothing(
    database: Database, sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        add_article(connection, 1)
        add_article(connection, 2)
    told = migrate("downgrade", "articles", "base", "--database", address(database))
    assert told.code == 2
    assert "would delete data, so nothing was changed" in told.err
    assert "the table articles with 2 rows" in told.err
    assert "sagabox migrate downgrade articles base --yes-delete-data" in told.err
    with sync_engine.begin() as connection:
        assert len(titles(connection)) == 2
    assert migrate("check", "articles", "--database", address(database)).code == 0


def test_it_deletes_them_when_told_to_and_names_what_it_deleted(
    database: Database, sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        add_article(connection, 1)
    told = migrate(
        "downgrade", "articles", "base", "--yes-delete-data", "--database", address(database)
    )
    assert told.code == 0, told.err
    assert "articles: deleted the table articles with 1 row\narticles: at base\n" in told.out
    with sync_engine.connect() as connection:
        assert tables_of(connection) == {"alembic_version"}


def test_messages_that_have_not_left_count_as_data(database: Database, sync_engine: Engine) -> None:
    with sync_engine.begin() as connection:
        connection.execute(
            insert(tables.outbox).values(
                id="00000000-0000-7000-8000-000000000001",
                destination="comments",
                bucket=16,
                aggregatetype="articles",
                aggregateid="key",
                type="articles.article-deleted.v1",
                payload="{}",
                headers="{}",
                occurred_at=START,
            )
        )
    told = migrate("downgrade", "articles", "base", "--database", address(database))
    assert "the table outbox with 1 row" in told.err


async def test_a_column_counts_only_where_it_has_values(
    database: Database, sync_engine: Engine, histories: Histories, clock: Clock
) -> None:
    histories.add(up=_ADD_SUBTITLE, down=_DROP_SUBTITLE)
    service = histories.service()
    await commands.upgrade(service, at(database), clock=clock)
    with sync_engine.begin() as connection:
        add_article(connection, 1, "without")
        add_article(connection, 2, "with")
    await commands.downgrade(service, at(database), "-1", clock=clock)
    await commands.upgrade(service, at(database), clock=clock)
    with sync_engine.begin() as connection:
        connection.execute(text("UPDATE articles SET subtitle = 'yes' WHERE title = 'with'"))
    with pytest.raises(MigrationError, match=r"the column articles\.subtitle with 1 value"):
        await commands.downgrade(service, at(database), "-1", clock=clock)


async def test_rows_that_a_downgrade_deletes_by_itself_count(
    database: Database, sync_engine: Engine, histories: Histories, clock: Clock
) -> None:
    histories.add(up="pass", down="op.execute(\"DELETE FROM articles WHERE title = 'second'\")")
    service = histories.service()
    await commands.upgrade(service, at(database), clock=clock)
    with sync_engine.begin() as connection:
        add_article(connection, 1, "first")
        add_article(connection, 2, "second")
    with pytest.raises(MigrationError, match="1 row of the table articles"):
        await commands.downgrade(service, at(database), "-1", clock=clock)
    with sync_engine.begin() as connection:
        assert titles(connection) == ["first", "second"]


@pytest.mark.databases("postgresql")  # SQLite has one writer, and the migration is it
def test_no_client_can_write_between_the_count_and_the_downgrade(sync_engine: Engine) -> None:
    with sync_engine.begin() as counting, sync_engine.connect() as other:
        losses.contents(counting)
        other.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            add_article(other, 1)


@pytest.mark.parametrize(
    ("command", "revision", "right"),
    [("downgrade", "articles_0005", "already"), ("upgrade", "base", "downgrade articles base")],
)
def test_each_command_goes_its_own_way_only(
    database: Database, command: str, revision: str, right: str
) -> None:
    told = migrate(command, "articles", revision, "--database", address(database))
    assert right in told.out + told.err
    assert migrate("check", "articles", "--database", address(database)).code == 0
