"""The library's tables come by migrations, and code runs on no database that it does not fit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, inspect, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import Tables, schema, tables
from outbox.errors import SchemaMissing, SchemaNewer, SchemaOlder
from tests.support.databases.databases import Database, Kind
from tests.support.fixtures import MakeEngine, MakeSyncEngine

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def database_schema() -> str:
    return "empty"


@pytest.fixture
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


def migrate(engine: Engine, step: Callable[[Operations], None]) -> None:
    with engine.begin() as connection:
        step(Operations(MigrationContext.configure(connection)))


def differences(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return schema.differences(connection)


def test_the_versions_lead_to_the_tables_of_this_release(sync_engine: Engine) -> None:
    migrate(sync_engine, schema.upgrade)
    assert differences(sync_engine) == []
    assert set(inspect(sync_engine).get_table_names()) == set(tables.metadata.tables)


def test_a_downgrade_leaves_nothing(sync_engine: Engine) -> None:
    migrate(sync_engine, schema.upgrade)
    migrate(sync_engine, lambda op: schema.downgrade(op, to=0, start=schema.LATEST))
    assert inspect(sync_engine).get_table_names() == []


def test_the_versions_are_taken_one_after_the_other(sync_engine: Engine) -> None:
    for version in range(schema.LATEST):
        migrate(sync_engine, lambda op, v=version: schema.upgrade(op, start=v, to=v + 1))  # type: ignore[misc]  # the default binds the loop's value
    assert differences(sync_engine) == []


@pytest.mark.parametrize(("start", "to"), [(0, schema.LATEST + 1), (-1, 1), (1, 0)])
def test_an_unknown_version_is_refused(sync_engine: Engine, start: int, to: int) -> None:
    with pytest.raises(ValueError, match="there is no way from version"):
        migrate(sync_engine, lambda op: schema.upgrade(op, start=start, to=to))


@pytest.mark.databases("postgresql")
def test_the_migrated_tables_are_vacuumed_as_the_declared_ones(
    sync_engine: Engine, make_sync_engine: MakeSyncEngine, database_factory: Callable[..., Database]
) -> None:
    def options(engine: Engine) -> dict[str, list[str]]:
        statement = "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"
        with engine.connect() as connection:
            return {
                row.relname: sorted(row.reloptions) for row in connection.execute(text(statement))
            }

    migrate(sync_engine, schema.upgrade)
    declared = options(make_sync_engine(database_factory("outbox")))
    assert options(sync_engine) == declared
    assert "autovacuum_vacuum_threshold=1000" in declared["outbox"]
    assert declared["outbox_lease"] == ["fillfactor=50"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("DROP TABLE outbox_held", "the table outbox_held is missing"),
        ("DROP INDEX outbox_queue", "the index outbox_queue (destination, bucket, seq) of outbox"),
        ("ALTER TABLE inbox DROP COLUMN reply", "the column inbox.reply is missing"),
        ("ALTER TABLE inbox ADD COLUMN more TEXT", "the column inbox.more should not be there"),
        (
            "CREATE INDEX extra ON outbox (type)",
            "the index extra (type) of outbox should not be there",
        ),
    ],
)
def test_a_difference_is_told_in_a_sentence(
    sync_engine: Engine, change: str, sentence: str
) -> None:
    migrate(sync_engine, schema.upgrade)
    migrate(sync_engine, lambda op: op.execute(change))
    (difference,) = differences(sync_engine)
    assert difference.startswith(sentence)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "ALTER TABLE inbox ALTER state TYPE varchar(20)",
            "the type of inbox.state is VARCHAR(length=20) and should be String(length=10)",
        ),
        ("ALTER TABLE inbox ALTER state DROP NOT NULL", "inbox.state may be empty, wrongly"),
        (
            "ALTER TABLE outbox ALTER xid SET DEFAULT '7'",
            "the default of outbox.xid is '7'::xid8 and should be pg_current_xact_id()",
        ),
        (
            "ALTER TABLE outbox_lease DROP CONSTRAINT outbox_lease_fence",
            "the unique constraint outbox_lease_fence (destination, bucket, epoch) of outbox_lease",
        ),
        (
            "ALTER TABLE inbox DROP CONSTRAINT inbox_pkey; ALTER TABLE inbox ADD PRIMARY KEY (id)",
            "the primary key of inbox is (id) and should be (consumer, id)",
        ),
    ],
)
def test_a_difference_within_a_table_is_told_in_a_sentence(
    sync_engine: Engine, change: str, sentence: str
) -> None:
    migrate(sync_engine, schema.upgrade)
    migrate(sync_engine, lambda op: op.execute(change))
    (difference,) = differences(sync_engine)
    assert difference.startswith(sentence)


@pytest.mark.databases("postgresql")
def test_the_transactions_id_must_stand_before_the_number(sync_engine: Engine) -> None:
    migrate(sync_engine, schema.upgrade)
    with sync_engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox DROP COLUMN xid"))
        connection.execute(
            text("ALTER TABLE outbox ADD xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
        )
    (difference,) = differences(sync_engine)
    assert difference.startswith("the column outbox.xid stands after outbox.seq")


def test_other_tables_are_not_the_librarys_business(sync_engine: Engine) -> None:
    migrate(sync_engine, schema.upgrade)
    migrate(sync_engine, lambda op: op.execute("CREATE TABLE article (id INTEGER PRIMARY KEY)"))
    assert differences(sync_engine) == []


# --- Which code may run on which database ------------------------------------------------------


def record(engine: Engine, *revisions: tuple[str, str]) -> None:
    """Record the revisions as applied in one go, at one moment."""
    with engine.begin() as connection:
        for revision, kind in revisions:
            schema.record_revision(connection, revision, kind, NOW)


@pytest.fixture
def engine(make_engine: MakeEngine, database: Database, sync_engine: Engine) -> AsyncEngine:
    """An engine for a database that has the library's tables."""
    migrate(sync_engine, schema.upgrade)
    return make_engine(database)


async def test_code_runs_on_its_own_revision(engine: AsyncEngine, sync_engine: Engine) -> None:
    record(sync_engine, ("one", "expand"), ("two", "contract"))
    await schema.require_revision(engine, service="things", expected="two")


async def test_code_runs_on_a_newer_database_that_only_grew(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    record(sync_engine, ("one", "contract"), ("two", "expand"), ("three", "expand"))
    await schema.require_revision(engine, service="things", expected="one")


async def test_code_does_not_run_on_a_newer_database_that_shrank(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    record(sync_engine, ("one", "expand"), ("two", "expand"), ("three", "contract"))
    with pytest.raises(SchemaNewer, match=r"has the revision three.*sagabox migrate upgrade thi"):
        await schema.require_revision(engine, service="things", expected="one")


async def test_a_revision_that_was_applied_with_a_clock_set_back_still_counts_as_later(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    record(sync_engine, ("one", "expand"))
    with sync_engine.begin() as connection:
        earlier = NOW - timedelta(days=1)
        schema.record_revision(connection, "two", "contract", earlier)
    with pytest.raises(SchemaNewer):
        await schema.require_revision(engine, service="things", expected="one")


async def test_code_does_not_run_on_an_older_database(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    record(sync_engine, ("one", "expand"))
    with pytest.raises(SchemaOlder, match=r"stands at one.*run: sagabox migrate upgrade things"):
        await schema.require_revision(engine, service="things", expected="two")


async def test_a_revision_that_was_taken_back_is_forgotten(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    record(sync_engine, ("one", "expand"), ("two", "contract"))

    def forget(connection: Connection) -> None:
        schema.forget_revision(connection, "two")

    with sync_engine.begin() as connection:
        forget(connection)
    await schema.require_revision(engine, service="things", expected="one")


async def test_code_does_not_run_on_an_empty_database(
    make_engine: MakeEngine, database: Database
) -> None:
    with pytest.raises(SchemaMissing, match=r"no tables yet.*run: sagabox migrate upgrade things"):
        await schema.require_revision(make_engine(database), service="things", expected="one")


async def test_code_does_not_run_on_tables_that_no_migration_made(engine: AsyncEngine) -> None:
    with pytest.raises(SchemaMissing, match="no migration of things has made them; correct the"):
        await schema.require_revision(engine, service="things", expected="one")


async def test_code_without_its_prefix_is_told_of_the_tables_with_one(
    engine: AsyncEngine, sync_engine: Engine
) -> None:
    Tables(prefix="orchestrator_").metadata.create_all(sync_engine)
    step = r"prefix orchestrator_; .*export SAGABOX_TABLE_PREFIX=orchestrator_$"
    with pytest.raises(SchemaMissing, match=step):
        await schema.require_revision(engine, service="things", expected="one")


@pytest.mark.databases("postgresql")
async def test_code_does_not_run_where_there_is_no_database(
    make_engine: MakeEngine, database: Database
) -> None:
    url = make_url(database.url).set(database="nowhere").render_as_string(hide_password=False)
    engine = make_engine(Database(Kind.POSTGRESQL, url, url))
    with pytest.raises(SchemaMissing, match=r"does not exist.*sagabox migrate upgrade things"):
        await schema.require_revision(engine, service="things", expected="one")
