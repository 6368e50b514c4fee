"""The databases of worlds on PostgreSQL: their rows are restored, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError

from orchestrator.testing import SagaWorld, WayFailed, check_saga
from orchestrator.testing.worlds import snapshot
from orchestrator.testing.worlds.participants import postgres_database
from orchestrator.testing.worlds.participants.postgres_database import PostgresDatabase
from outbox.clock import SystemClock
from tests.support.checkout import ROOT
from tests.support.databases.postgres import PostgresServer

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples" / "testing_a_saga")
    from trips import Base, Trip, bank, book_trip, hotel

TRIP: dict[str, Any] = {"participants": {"hotel": hotel, "bank": bank}, "schema": Base.metadata}


@pytest.fixture(scope="module")
def saga_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A server for a role that may make databases, and nothing else."""
    with postgres_server.connect() as connection:
        connection.execute("CREATE ROLE tests LOGIN CREATEDB")
        yield f"postgresql://tests@127.0.0.1:{postgres_server.port}/postgres"
        connection.execute("DROP ROLE tests")


@pytest.fixture
def database(saga_database: str) -> Iterator[PostgresDatabase]:
    made = PostgresDatabase(saga_database, SystemClock())
    yield made
    made.remove()


def execute(database: PostgresDatabase, *statements: str) -> None:
    with database.plain.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows(database: PostgresDatabase) -> snapshot.Tables:
    return snapshot.taken(database, ())


TABLES = {
    "that refer to each other": (
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL, what text)",
        "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b",
        "WITH first AS (INSERT INTO a VALUES (1, 1)) INSERT INTO b VALUES (1, 1)",
        "UPDATE a SET what = 'other'",
    ),
    "with columns that only the database writes": (
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "twice int GENERATED ALWAYS AS (price * 2) STORED, price int)",
        "INSERT INTO a (price) VALUES (7)",
        "UPDATE a SET price = 8",
    ),
    "of another schema": (
        "CREATE SCHEMA sales",
        "CREATE TABLE sales.a (id int)",
        "INSERT INTO sales.a VALUES (1)",
        "DELETE FROM sales.a",
    ),
    "with names to quote": (
        'CREATE TABLE "A ""b" ("c d" int)',
        'INSERT INTO "A ""b" VALUES (1)',
        'DELETE FROM "A ""b"',
    ),
    "in partitions": (
        "CREATE TABLE a (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF a FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high PARTITION OF a FOR VALUES FROM (10) TO (20)",
        "INSERT INTO a VALUES (1), (11)",
        "UPDATE a SET id = 12 WHERE id = 1",
    ),
    "that inherit": (
        "CREATE TABLE a (id int)",
        "CREATE TABLE b (more int) INHERITS (a)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (2, 3)",
        "DELETE FROM b",
    ),
    "with triggers": (
        "CREATE TABLE a (id int PRIMARY KEY, up int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE log (what text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO log VALUES (TG_NAME); RETURN NULL; END $$",
        "CREATE TRIGGER now AFTER INSERT OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION note()",
        'CREATE CONSTRAINT TRIGGER "at commit" AFTER INSERT ON a INITIALLY DEFERRED '
        "FOR EACH ROW EXECUTE FUNCTION note()",
        "INSERT INTO a VALUES (1, 1)",
        "DELETE FROM a",
    ),
    "with values that a driver has not": (
        "CREATE TABLE a (until timestamptz, facts jsonb, prices numeric[])",
        "INSERT INTO a VALUES ('infinity', '{}', '{NaN}')",
        "UPDATE a SET facts = '[1]'",
    ),
}


@pytest.mark.parametrize("statements", TABLES.values(), ids=TABLES)
def test_kept_rows_are_restored_in_tables(
    database: PostgresDatabase, statements: tuple[str, ...]
) -> None:
    *given, change = statements
    execute(database, *given)
    before = rows(database)
    database.keep()
    for _ in range(2):
        execute(database, change)
        after = rows(database)
        found = snapshot.differences({"it": before}, {"it": after}, snapshot.Ignored())
        assert found
        database.restore()
        assert rows(database) == before


def test_a_table_is_compared_as_a_whole_and_under_the_name_of_its_schema(
    database: PostgresDatabase,
) -> None:
    execute(
        database,
        *TABLES["in partitions"][:-1],
        "CREATE SCHEMA sales",
        "CREATE TABLE sales.a (id int)",
    )
    assert {name: len(it.rows) for name, it in rows(database).items()} == {"a": 2, "sales.a": 0}


def test_triggers_are_what_they_were_after_rows_were_restored(database: PostgresDatabase) -> None:
    execute(database, *TABLES["with triggers"][:-1])
    execute(database, "ALTER TABLE a DISABLE TRIGGER now")
    database.keep()
    database.restore()
    execute(database, "INSERT INTO a VALUES (2, 2)")
    with database.plain.connect() as connection:
        heard = connection.scalars(text("SELECT what FROM log")).all()
    assert heard == ["now", "at commit", "at commit"]


def test_numbers_go_on_where_rows_are_restored(database: PostgresDatabase) -> None:
    execute(database, "CREATE TABLE a (id serial PRIMARY KEY)")
    database.keep()
    for expected in (1, 2):
        execute(database, "INSERT INTO a DEFAULT VALUES")
        assert rows(database)["a"].rows == ((expected,),)
        database.restore()


def test_a_transaction_that_a_test_left_open_is_told_where_rows_are_restored(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "_PATIENCE", "10ms")
    execute(database, *TABLES["of another schema"][:-1])
    database.keep()
    with database.plain.begin() as left_open:
        left_open.exec_driver_sql("UPDATE sales.a SET id = 2")
        with pytest.raises(OperationalError, match="lock timeout"):
            database.restore()


@pytest.mark.parametrize(
    ("scheme", "driver"), [("postgresql", "asyncpg"), ("postgresql+psycopg", "psycopg")]
)
def test_async_handlers_have_the_driver_of_the_url(
    saga_database: str, scheme: str, driver: str
) -> None:
    url = saga_database.replace("postgresql", scheme)
    made = PostgresDatabase(url, SystemClock())
    made.remove()
    assert (made.engine.dialect.driver, made.plain.dialect.driver) == (driver, "psycopg")


# Nothing stays behind


def left(server: PostgresServer) -> list[str]:
    """The databases of worlds that are there."""
    with server.connect() as connection:
        names = connection.execute("SELECT datname FROM pg_database").fetchall()
    return [it for (it,) in names if it.startswith("sagabox_world_")]


def test_each_participant_has_a_database_until_its_world_is_closed(
    saga_database: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    world = SagaWorld(book_trip, **TRIP, folder=tmp_path, database=saga_database)
    assert len(left(postgres_server)) == 2
    world.close()
    assert left(postgres_server) == []


def test_a_connection_that_is_left_open_keeps_no_database(
    saga_database: str, postgres_server: PostgresServer
) -> None:
    made = PostgresDatabase(saga_database, SystemClock())
    other = create_engine(made.plain.url)
    with other.connect():
        made.remove()
        assert left(postgres_server) == []
    other.dispose()


def test_a_process_of_the_server_in_a_database_does_not_keep_it(
    saga_database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = PostgresDatabase(saga_database, SystemClock())
    worker = postgres_server.connect(str(made.plain.url.database))
    at_server = made._at_server

    def ending(statement: str) -> None:
        if "FORCE" not in statement:
            worker.close()  # as the server then ends its own
        at_server(statement)

    monkeypatch.setattr(made, "_at_server", ending)
    made.remove()
    assert worker.closed
    assert left(postgres_server) == []


def test_a_database_that_cannot_be_closed_keeps_no_other_one(
    saga_database: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    world = SagaWorld(book_trip, **TRIP, folder=tmp_path, database=saga_database)
    first, second = [it.database for it in world._participants.values()]
    first_remove, second_remove = first.remove, second.remove

    def refuse(remove: Callable[[], None]) -> Callable[[], None]:
        def removed() -> None:
            remove()
            raise KeyError("no such thing")

        return removed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "remove", refuse(first_remove))
        patch.setattr(second, "remove", refuse(second_remove))
        with pytest.raises(KeyError):
            world.close()
    assert left(postgres_server) == []


def test_a_world_that_cannot_be_made_leaves_no_database(
    saga_world: Callable[..., SagaWorld], postgres_server: PostgresServer
) -> None:
    def broken(_: Connection) -> None:
        assert len(left(postgres_server)) == 2
        raise KeyError("no such thing")

    schema = {"hotel": Base.metadata, "bank": broken}
    with pytest.raises(KeyError):
        saga_world(book_trip, **TRIP | {"schema": schema})
    assert left(postgres_server) == []


def test_a_check_that_fails_leaves_no_database(
    saga_database: str, postgres_server: PostgresServer
) -> None:
    def unhappy(*_: object) -> None:
        assert len(left(postgres_server)) == 2
        raise AssertionError("as it was to be")

    with pytest.raises(WayFailed, match="as it was to be"):
        check_saga(
            book_trip, Trip("Rome", "1234"), **TRIP, invariant=unhappy, database=saga_database
        )
    assert left(postgres_server) == []
