"""`check` names what loses rows of tables that look right, and unrecorded revisions are refused."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine, text

from migrations import commands
from migrations.services import SERVICES
from outbox import schema
from outbox.errors import SchemaNewer
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import address, at, migrate, migrated
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine

_FUNCTION = """
    CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'
"""


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("comments")


def _execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for each in statements:
            connection.execute(text(each))


def _found(database: Database) -> list[str]:
    """What `check` names, without the service's name and the last line."""
    told = migrate("check", "comments", "--database", address(database))
    lines = [it.removeprefix("comments: ") for it in told.out.splitlines()]
    if told.code == 0:
        assert lines == ["the database is as the code expects"]
        return []
    assert lines[-1].startswith("next: ")
    return lines[:-1]


def _mends(sentence: str) -> str:
    """The statement that the sentence says to run."""
    return sentence.partition("; run: ")[2]


_SWALLOW = (
    _FUNCTION,
    "CREATE TRIGGER a BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION swallow()",
)
_ON_POSTGRESQL: dict[str, tuple[tuple[str, ...], str]] = {
    "an unlogged outbox": (("ALTER TABLE outbox SET UNLOGGED",), "table outbox is UNLOGGED"),
    "an unlogged inbox": (("ALTER TABLE inbox SET UNLOGGED",), "table inbox is UNLOGGED"),
    "a trigger before rows": (_SWALLOW, "trigger a of outbox runs before each row"),
    "a trigger that always fires": (
        (*_SWALLOW, "ALTER TABLE outbox ENABLE ALWAYS TRIGGER a"),
        "trigger a of outbox runs before each row",
    ),
    "a name that is quoted": (
        (
            _FUNCTION,
            'CREATE TRIGGER "Ä b" BEFORE DELETE ON inbox FOR EACH ROW EXECUTE FUNCTION swallow()',
        ),
        'trigger "Ä b" of inbox runs before each row',
    ),
    "row security": (
        ("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY",),
        "row-level security is on for the table outbox",
    ),
    "forced row security": (
        ("ALTER TABLE inbox FORCE ROW LEVEL SECURITY",),
        "row-level security is on for the table inbox",
    ),
    "a rule": (
        ("CREATE RULE away AS ON INSERT TO outbox DO INSTEAD NOTHING",),
        "the rule away of outbox",
    ),
    "an exclusion": (
        ("ALTER TABLE outbox ADD CONSTRAINT lone EXCLUDE USING btree (id WITH =)",),
        "the exclusion constraint lone of outbox should not be there",
    ),
    "autovacuum off": (
        ("ALTER TABLE outbox SET (autovacuum_enabled = off)",),
        "autovacuum is off for the table outbox",
    ),
    "replica identity nothing": (
        ("ALTER TABLE outbox REPLICA IDENTITY NOTHING",),
        "replica identity of the table outbox is NOTHING",
    ),
    "replica identity full": (
        ("ALTER TABLE inbox REPLICA IDENTITY FULL",),
        "replica identity of the table inbox is FULL",
    ),
    "an invalid index": (
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outbox_queue'::regclass",),
        "the index outbox_queue of outbox is invalid",
    ),
}


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("kind", _ON_POSTGRESQL)
def test_what_loses_rows_is_named_with_the_statement_that_mends_it(
    database: Database, sync_engine: Engine, kind: str
) -> None:
    plant, expected = _ON_POSTGRESQL[kind]
    _execute(sync_engine, *plant)
    found = _found(database)
    named = [it for it in found if re.search(expected, it)]
    assert named, found
    assert all(_mends(it) for it in named)
    _execute(sync_engine, *{_mends(it) for it in named})
    assert _found(database) == []


_REFUSING = {
    "a check": ("ALTER TABLE outbox ADD CONSTRAINT few CHECK (bucket < 5)", "few"),
    "a check on the inbox": ("ALTER TABLE inbox ADD CONSTRAINT ck CHECK (state <> 'x')", "ck"),
    "unique": ("ALTER TABLE outbox ADD CONSTRAINT once UNIQUE (id)", "once"),
    "a foreign key": (
        "ALTER TABLE outbox ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES comments (id)",
        "fk",
    ),
    "a unique index": ("CREATE UNIQUE INDEX once ON outbox (id)", "once"),
    "a unique index of an expression": ("CREATE UNIQUE INDEX once ON outbox (lower(type))", "once"),
}


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("kind", _REFUSING)
def test_what_refuses_rows_and_is_not_ours_is_named(
    database: Database, sync_engine: Engine, kind: str
) -> None:
    plant, name = _REFUSING[kind]
    _execute(sync_engine, plant)
    assert any(re.search(rf"\b{name}\b.* should not be there", it) for it in _found(database))


@pytest.mark.databases("postgresql")
def test_triggers_that_can_only_refuse_are_fine(database: Database, sync_engine: Engine) -> None:
    _execute(
        sync_engine,
        *_SWALLOW,
        "ALTER TABLE outbox DISABLE TRIGGER a",
        "CREATE TRIGGER b AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION swallow()",
        "CREATE TRIGGER c BEFORE INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION swallow()",
    )
    assert _found(database) == []


@pytest.mark.databases("sqlite")
def test_a_trigger_in_sqlite_is_named_with_the_statement_that_mends_it(
    database: Database, sync_engine: Engine
) -> None:
    swallow = "CREATE TRIGGER a BEFORE INSERT ON outbox BEGIN SELECT RAISE(IGNORE); END"
    _execute(sync_engine, swallow)
    (found,) = _found(database)
    assert found.startswith("the trigger a of outbox runs at our statements")
    _execute(sync_engine, _mends(found))
    assert _found(database) == []


@pytest.mark.databases("sqlite")
def test_an_outbox_that_gives_out_numbers_twice_is_named(
    database: Database, sync_engine: Engine
) -> None:
    with sync_engine.begin() as connection:
        made = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'outbox'"))
        assert made is not None
        connection.execute(text("DROP TABLE outbox"))
        connection.execute(text(made.replace("AUTOINCREMENT", "")))
        connection.execute(text("CREATE INDEX outbox_queue ON outbox (destination, bucket, seq)"))
    (found,) = _found(database)
    assert "outbox was made without AUTOINCREMENT" in found


@pytest.mark.parametrize("name", SERVICES)
async def test_a_database_at_a_revision_without_a_kind_is_refused(
    database_factory: DatabaseFactory,
    make_sync_engine: MakeSyncEngine,
    make_engine: MakeEngine,
    name: str,
) -> None:
    database = database_factory(migrated(name))
    with make_sync_engine(database).begin() as connection:
        expected = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_elsewhere'"))
    assert isinstance(expected, str)
    with pytest.raises(SchemaNewer, match=r"from_elsewhere, whose kind is not recorded") as error:
        await schema.require_revision(make_engine(database), service=name, expected=expected)
    assert f"sagabox migrate upgrade {name}" in error.value.next_step
    findings = await commands.check(SERVICES[name], at(database))
    assert any(
        "the revision from_elsewhere was applied, and its kind is not recorded" in it
        for it in findings.differences
    )
    assert findings.next_step


def test_a_known_revision_without_a_kind_is_named(database: Database, sync_engine: Engine) -> None:
    _execute(sync_engine, "DELETE FROM schema_revision")
    found = _found(database)
    assert len(found) > 0
    assert all("its kind is not recorded" in it for it in found)
