"""The names of an installation's tables, and what lies beside them."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine

from outbox import OutboxError, Tables
from outbox.database.table_set import MAX_PREFIX, PLAIN_LOCK_SPACE


def test_the_tables_have_the_prefix_and_the_schema() -> None:
    tables = Tables("sagabox_", "order")
    assert str(tables.outbox) == "order.sagabox_outbox"
    assert tables.in_sql("outbox") == '"order".sagabox_outbox'
    assert {it.name for it in tables.outbox.indexes} == {"sagabox_outbox_queue"}
    assert {it.schema for it in tables.metadata.tables.values()} == {"order"}


@pytest.mark.parametrize(
    "prefix", ["Sagabox_", "1_", "my-", "my.", 'a"b', " ", "pg_", "sqlite_", "p" * (MAX_PREFIX + 1)]
)
def test_a_prefix_that_no_table_can_have_is_refused_with_one_that_can(prefix: str) -> None:
    with pytest.raises(OutboxError, match=r"cannot be the prefix of the tables.*such as sagabox_"):
        Tables(prefix)


@pytest.mark.parametrize("schema", ["", "Mine", "my-schema", "pg_mine", "s" * 64])
def test_a_schema_that_cannot_be_is_refused_with_one_that_can(schema: str) -> None:
    with pytest.raises(OutboxError, match=r"cannot be the schema of the tables.*such as messaging"):
        Tables(schema=schema)


def test_each_installation_has_a_lock_space_of_its_own() -> None:
    spaces = [
        it.lock_space for it in (Tables(), Tables("a_"), Tables(schema="a_"), Tables("a_", "a_"))
    ]
    assert spaces[0] == PLAIN_LOCK_SPACE
    assert len(set(spaces)) == len(spaces)
    assert all(-(2**31) <= it < 2**31 for it in spaces)


def test_sqlite_has_no_schema() -> None:
    with pytest.raises(OutboxError, match=r"SQLite has no schemas.*prefix"):
        Tables(schema="mine").require(create_engine("sqlite://"))


def test_an_engine_that_would_move_the_tables_elsewhere_is_refused() -> None:
    engine = create_engine("sqlite://").execution_options(schema_translate_map={None: "shop"})
    with pytest.raises(OutboxError, match=r"schema_translate_map.*outbox.Tables\(schema="):
        Tables().require(engine)
