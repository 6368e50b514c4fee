"""What the library needs of a server is tried at the start, and what is missing is named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import outbox
from outbox.database.address import features
from outbox.database.address.features import FEATURES, lacking, require_features
from outbox.errors import FeatureMissing
from outbox.tables import DEFAULT_TABLES, Tables
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.saga_writers import execute
from tests.support.repository.manual import rows as table_on

pytestmark = pytest.mark.slow

ALL = pytest.mark.databases("sqlite", "postgresql", "older-postgresql")
POSTGRESQL = pytest.mark.databases("postgresql")
PAGE = "docs/operate/databases.md"
BY_NAME = {it.name: it for it in FEATURES}


class Refused(Exception):
    """What a driver raises where the server says that it does not know something."""

    sqlstate = "0A000"


@contextmanager
def refusing(engine: AsyncEngine, part: str) -> Iterator[None]:
    """The server refuses each statement with that part."""

    def refuse(_cursor: object, statement: str, *_: object) -> None:
        if part in statement:
            raise ProgrammingError(statement, {}, Refused("syntax error: unimplemented"))

    event.listen(engine.sync_engine, "do_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "do_execute", refuse)


def shadow(database: Database, *functions: str) -> None:
    """Put functions before those of the server, as a product has them that only looks alike."""
    name = database.url.rpartition("/")[2]
    execute(
        database,
        "CREATE SCHEMA alike",
        *(f"CREATE FUNCTION alike.{it}" for it in functions),
        f'ALTER DATABASE "{name}" SET search_path = alike, pg_catalog, public',
    )


async def missing(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        found = await connection.run_sync(lacking, DEFAULT_TABLES)
        assert not connection.in_transaction()
    return [feature.name for feature, _ in found]


@ALL
async def test_nothing_is_missing_on_a_database_that_is_supported(engine: AsyncEngine) -> None:
    await require_features(engine, "bank", DEFAULT_TABLES)
    if engine.dialect.name == "postgresql":
        assert await missing(engine) == []


@POSTGRESQL
async def test_nothing_is_left_behind(engine: AsyncEngine) -> None:
    await require_features(engine, "bank", DEFAULT_TABLES)
    async with engine.connect() as connection:
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert await connection.scalar(text(locks)) == 0
        channels = "SELECT count(*) FROM pg_listening_channels()"
        assert await connection.scalar(text(channels)) == 0


@POSTGRESQL
async def test_two_processes_that_start_at_once_do_not_wait_for_each_other(
    engine: AsyncEngine,
) -> None:
    lock = f"SELECT pg_advisory_xact_lock({features._SPACE}, 0)"
    async with engine.begin() as other:
        await other.execute(text(lock))
        await asyncio.wait_for(require_features(engine, "bank", DEFAULT_TABLES), 20)


@POSTGRESQL
@pytest.mark.parametrize(
    ("part", "feature"),
    [
        ("pg_current_snapshot", "transaction ids"),
        ("pg_advisory_xact_lock", "advisory locks"),
        ("FOR KEY SHARE", "FOR KEY SHARE"),
        ("SKIP LOCKED", "FOR NO KEY UPDATE SKIP LOCKED"),
        ("WITH gone AS (DELETE", "WITH ... DELETE ... RETURNING"),
        ("ON CONFLICT", "ON CONFLICT DO NOTHING RETURNING"),
        ("LISTEN", "LISTEN"),
    ],
)
async def test_a_statement_that_the_server_refuses_is_the_feature_that_is_missing(
    engine: AsyncEngine, part: str, feature: str, caplog: pytest.LogCaptureFixture
) -> None:
    with refusing(engine, part):
        assert await missing(engine) == [feature]
        if not BY_NAME[feature].is_needed:
            with caplog.at_level(logging.WARNING, "outbox.database"):
                await require_features(engine, "bank", DEFAULT_TABLES)
            assert f"the database of bank has no {feature}" in caplog.text
            return
        with pytest.raises(outbox.FeatureMissing) as refused:
            await require_features(engine, "bank", DEFAULT_TABLES)
    assert f"the database of bank lacks the feature '{feature}'" in refused.value.problem
    assert "unimplemented" in refused.value.problem
    assert BY_NAME[feature].used_for in refused.value.problem
    assert "docs/operate/databases.md" in refused.value.next_step


@POSTGRESQL
@pytest.mark.parametrize(
    ("function", "feature"),
    [
        (
            "pg_advisory_xact_lock(integer, integer) RETURNS text LANGUAGE sql AS "
            "$$ SELECT ''::text $$",
            "advisory locks",
        ),
        (
            "current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN $1 = "
            "'server_version_num' THEN '130004' ELSE pg_catalog.current_setting($1) END $$",
            "PostgreSQL 14",
        ),
        (
            "current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN $1 = "
            "'transaction_isolation' THEN 'serializable' "
            "ELSE pg_catalog.current_setting($1) END $$",
            "READ COMMITTED",
        ),
        (
            "pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
            "a server that takes writes",
        ),
    ],
)
async def test_a_function_that_is_there_and_does_not_do_it_is_seen(
    database: Database, make_engine: MakeEngine, function: str, feature: str
) -> None:
    shadow(database, function)
    engine = make_engine(database)
    assert await missing(engine) == [feature]
    with pytest.raises(FeatureMissing, match="the server is PostgreSQL"):
        await require_features(engine, "bank", DEFAULT_TABLES)


@POSTGRESQL
async def test_a_role_that_may_not_write_is_told_so_elsewhere(
    database: Database, make_engine: MakeEngine
) -> None:
    name = database.url.rpartition("/")[2]
    role = f"reader_of_{name}"
    execute(database, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON outbox TO {role}")
    url = database.url.replace("postgres@", f"{role}@")
    reader = create_async_engine(url)
    try:
        await require_features(reader, "bank", DEFAULT_TABLES)
    finally:
        await reader.dispose()
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@POSTGRESQL
async def test_tables_that_are_not_there_are_told_of_elsewhere(engine: AsyncEngine) -> None:
    await require_features(engine, "bank", Tables(prefix="another_"))


@POSTGRESQL
async def test_a_service_does_not_start_without_it(
    database: Database, make_engine: MakeEngine
) -> None:
    shadow(
        database,
        "pg_advisory_xact_lock(integer, integer) RETURNS text LANGUAGE sql AS "
        "$$ SELECT ''::text $$",
    )
    service = outbox.Service("bank", make_engine(database), routes={}, secrets=None)
    with pytest.raises(FeatureMissing, match="advisory locks"):
        async with service.running():
            raise AssertionError("it runs")


def test_the_page_tells_of_each_feature() -> None:
    told = {row[0].strip("`"): (row[1], row[2]) for row in table_on(PAGE, "features")}
    assert told == {
        it.name: (it.used_for, "it does not start" if it.is_needed else "a warning")
        for it in FEATURES
    }
