"""`check` is silent on what the migrations made, and finds each kind of difference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    CheckConstraint,
    Column,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    text,
)

from migrations import commands, drift
from migrations.services import SERVICES
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import START, Histories, address, at, migrate, migrated
from tests.support.fixtures import DatabaseFactory

pytestmark = pytest.mark.slow

_INDEX = "ix_comments_article_id_id"


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("comments")


@pytest.mark.databases("sqlite", "postgresql", "older-postgresql")
@pytest.mark.parametrize("name", SERVICES)
def test_what_the_migrations_made_is_what_the_models_say(
    database_factory: DatabaseFactory, name: str
) -> None:
    database = database_factory(migrated(name))
    told = migrate("check", name, "--database", address(database))
    assert (told.code, told.out) == (0, f"{name}: the database is as the code expects\n")


def _planted(plant: Callable[[Operations], object], engine: Engine) -> None:
    with engine.begin() as connection:
        plant(Operations(MigrationContext.configure(connection)))


def _altered(table: str, column: str, **change: object) -> Callable[[Operations], None]:
    def plant(op: Operations) -> None:
        with op.batch_alter_table(table) as it:
            it.alter_column(column, **change)  # type: ignore[arg-type]  # handed through

    return plant


def _with_other_key(op: Operations) -> None:
    op.drop_table("comments")
    op.create_table(
        "comments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("article_id", sa.Uuid(), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_by", sa.Uuid()),
        sa.PrimaryKeyConstraint("article_id", "id"),
    )


def _other_index(op: Operations) -> None:
    op.drop_index(_INDEX, "comments")
    op.create_index(_INDEX, "comments", ["id", "article_id"])


def _unique_content(op: Operations) -> None:
    with op.batch_alter_table("comments") as it:
        it.create_unique_constraint("uq_comments_content", ["content"])


def _checked_content(op: Operations) -> None:
    with op.batch_alter_table("comments") as it:
        it.create_check_constraint("ck_comments_content", "content <> 'spam'")


def _with_foreign_key(op: Operations) -> None:
    with op.batch_alter_table("comments") as it:
        it.create_foreign_key("fk_comments_thread", "threads", ["article_id"], ["article_id"])


def _without_column(op: Operations) -> None:
    with op.batch_alter_table("threads") as it:
        it.drop_column("title")


_DRIFTS: dict[str, tuple[Callable[[Operations], object], str]] = {
    "missing table": (lambda op: op.drop_table("threads"), "the table threads is missing"),
    "missing index": (lambda op: op.drop_index(_INDEX, "comments"), f"{_INDEX}.* is missing"),
    "missing column": (_without_column, r"column threads\.title is missing"),
    "extra table": (
        lambda op: op.create_table("more", sa.Column("n", sa.Integer())),
        "the table more should not be there",
    ),
    "extra column": (
        lambda op: op.add_column("comments", sa.Column("likes", sa.Integer())),
        r"the column comments\.likes should not be there",
    ),
    "extra index": (
        lambda op: op.create_index("ix_author", "comments", ["author"]),
        "index ix_author .* should not be there",
    ),
    "other index": (_other_index, _INDEX),
    "other type": (
        _altered("comments", "author", type_=sa.Integer(), postgresql_using="0"),
        r"the type of comments\.author is INTEGER\(\) and should be",
    ),
    "other length": (
        _altered("comments", "author", type_=sa.String(99)),
        r"the type of comments\.author is .*99",
    ),
    "other nullability": (_altered("comments", "author", nullable=True), r"comments\.author may"),
    "other default": (
        _altered("comments", "author", server_default="unknown", existing_type=sa.String(100)),
        r"default of comments\.author is .*unknown",
    ),
    "other key": (_with_other_key, r"the primary key of comments is \(article_id, id\)"),
    "unique constraint": (_unique_content, "uq_comments_content"),
    "check constraint": (_checked_content, "ck_comments_content .* should not be there"),
    "foreign key": (_with_foreign_key, "foreign key .*comments"),
    "library's table": (lambda op: op.drop_table("outbox_held"), "outbox_held is missing"),
    "library's index": (lambda op: op.drop_index("outbox_queue", "outbox"), "outbox_queue"),
    "library's column": (
        _altered("inbox", "state", type_=sa.String(20)),
        r"the type of inbox\.state",
    ),
}


@pytest.mark.parametrize("kind", _DRIFTS)
def test_each_kind_of_difference_is_found_and_listed(
    database: Database, sync_engine: Engine, kind: str
) -> None:
    plant, expected = _DRIFTS[kind]
    _planted(plant, sync_engine)
    told = migrate("check", "comments", "--database", address(database))
    assert told.code == 1, told
    *lines, next_step = told.out.splitlines()
    assert any(re.search(expected, it) for it in lines), lines
    assert all(it.startswith("comments: ") for it in lines)
    assert next_step.startswith("comments: next: ")


@pytest.mark.databases("postgresql")
def test_a_transaction_id_that_stands_after_the_number_is_found(
    database: Database, sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox DROP COLUMN xid"))
        connection.execute(
            text("ALTER TABLE outbox ADD xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
        )
    told = migrate("check", "comments", "--database", address(database))
    assert told.code == 1
    assert "outbox.xid stands after outbox.seq" in told.out


_BOXES = MetaData()
_box = Table(
    "boxes",
    _BOXES,
    Column("size", Integer),
    Column("word", String(10)),
    CheckConstraint("size > 0 AND word IN ('a', 'b')", name="ck_boxes_size"),
)
Index("ix_boxes_size", _box.c.size, sqlite_where=_box.c.size > 5, postgresql_where=_box.c.size > 5)


def _box_differences(engine: Engine, condition: str, partial: str) -> list[str]:
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE boxes (size INTEGER, word VARCHAR(10), "
                f"CONSTRAINT ck_boxes_size CHECK ({condition}))"
            )
        )
        connection.execute(text(f"CREATE INDEX ix_boxes_size ON boxes (size) {partial}"))
    with engine.connect() as connection:
        found = drift.differences(connection, _BOXES)
    return [it for it in found if "boxes" in it]


_SAME = "size > 0 AND word IN ('a', 'b')"


def test_conditions_that_the_database_spells_in_its_own_way_are_no_difference(
    sync_engine: Engine,
) -> None:
    assert _box_differences(sync_engine, _SAME, "WHERE size > 5") == []


@pytest.mark.parametrize(
    ("condition", "partial", "expected"),
    [
        ("size > 1 AND word IN ('a', 'b')", "WHERE size > 5", "check constraint ck_boxes_size"),
        (_SAME, "WHERE size > 6", "the condition of the index ix_boxes_size"),
        (_SAME, "", "the condition of the index ix_boxes_size of boxes is missing"),
    ],
)
def test_another_condition_is_a_difference(
    sync_engine: Engine, condition: str, partial: str, expected: str
) -> None:
    (found,) = _box_differences(sync_engine, condition, partial)
    assert expected in found


def test_an_index_without_a_condition_must_have_none(sync_engine: Engine) -> None:
    plain = MetaData()
    table = Table("plain", plain, Column("size", Integer))
    Index("ix_plain_size", table.c.size)
    with sync_engine.begin() as connection:
        connection.execute(text("CREATE TABLE plain (size INTEGER)"))
        connection.execute(text("CREATE INDEX ix_plain_size ON plain (size) WHERE size > 5"))
    with sync_engine.connect() as connection:
        found = [it for it in drift.differences(connection, plain) if "plain" in it]
    assert found == ["the condition of the index ix_plain_size of plain should not be there"]


def test_the_check_itself_changes_nothing(database: Database, sync_engine: Engine) -> None:
    with sync_engine.connect() as connection:
        before = sorted(sa.inspect(connection).get_table_names())
    migrate("check", "comments", "--database", address(database))
    with sync_engine.connect() as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == before


async def test_a_database_that_is_behind_is_found(
    database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    database = database_factory(migrated("articles"))
    histories = Histories(tmp_path / "articles")
    histories.add(up="pass")
    findings = await commands.check(histories.service(), at(database))
    assert findings.differences == [
        "the database is at articles_0005, and the code's newest is articles_0006"
    ]
    assert findings.next_step == "sagabox migrate upgrade articles"


async def test_a_database_that_is_newer_is_found(
    database_factory: DatabaseFactory, tmp_path: Path
) -> None:
    database = database_factory(migrated("articles"))
    histories = Histories(tmp_path / "articles")
    histories.add(up="pass")
    await commands.upgrade(histories.service(), at(database), clock=FakeClock(START))
    findings = await commands.check(SERVICES["articles"], at(database))
    assert findings.differences == ["the database is newer than this code, by articles_0006"]


def test_json_lists_each_service_with_its_differences(
    database: Database, sync_engine: Engine, database_factory: DatabaseFactory
) -> None:
    _planted(lambda op: op.drop_table("threads"), sync_engine)
    other = database_factory(migrated("articles"))
    told = migrate(
        "check",
        "--json",
        SAGABOX_DATABASE_URL_ARTICLES=address(other),
        SAGABOX_DATABASE_URL_COMMENTS=address(database),
    )
    assert told.code == 1
    assert json.loads(told.out) == [
        {"service": "articles", "differences": []},
        {"service": "comments", "differences": ["the table threads is missing"]},
    ]
