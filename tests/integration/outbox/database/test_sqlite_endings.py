"""Transactions that SQLite ends by itself: nothing goes on as if they were still there."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session

from outbox.database.cutting import cut
from outbox.errors import TransactionLost
from outbox.sqlite import READ_ONLY
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import Thing, business, insert, names

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def database_schema() -> Schema:
    return business


@pytest.fixture
def engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


def fill(connection: Connection) -> None:
    """Run the database out of room, in the midst of the transaction."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
    connection.exec_driver_sql("PRAGMA cache_size = 5")
    for number in range(1000):
        insert(connection, f"big {number}", "x" * 4000)


def interrupt(connection: Connection) -> None:
    """Interrupt a writing statement, as another thread may."""
    raw: Any = connection.connection.dbapi_connection
    raw.set_progress_handler(lambda: 1, 1)
    connection.exec_driver_sql("UPDATE thing SET text = text || 'x'")


def conflict(connection: Connection) -> None:
    """Ask for a rollback by a clause of SQLite's own."""
    connection.exec_driver_sql("INSERT OR ROLLBACK INTO thing VALUES ('a', '')")


@pytest.mark.parametrize("end", [fill, interrupt, conflict])
def test_nothing_goes_on_after_sqlite_ended_the_transaction(engine: Engine, end: Any) -> None:
    with engine.connect() as connection:
        with pytest.raises(DBAPIError) as raised, connection.begin():
            insert(connection, "a")
            end(connection)
        assert raised.value.connection_invalidated
        assert not isinstance(raised.value, IntegrityError) or end is conflict
    with engine.connect() as connection:
        transaction = connection.begin()
        insert(connection, "a")
        with pytest.raises(DBAPIError):
            end(connection)
        with pytest.raises(PendingRollbackError):
            insert(connection, "b")
        with pytest.raises(PendingRollbackError):
            transaction.commit()
        transaction.rollback()
    assert names(engine) == []
    with engine.begin() as connection:
        insert(connection, "c")
    assert names(engine) == ["c"]


@pytest.mark.parametrize("end", [fill, interrupt, conflict])
def test_a_savepoint_does_not_hide_that_the_whole_transaction_has_gone(
    engine: Engine, end: Any
) -> None:
    with Session(engine) as session:
        session.begin()
        session.add(Thing(name="a"))
        session.flush()
        with pytest.raises(DBAPIError), session.begin_nested():
            end(session.connection())
        session.add(Thing(name="b"))
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()
        session.add(Thing(name="c"))
        session.commit()
    assert names(engine) == ["c"]


async def test_the_same_holds_for_an_async_engine(
    async_engine: AsyncEngine, engine: Engine
) -> None:
    async def attempt(connection: AsyncConnection) -> None:
        await connection.run_sync(insert, "a")
        await connection.run_sync(fill)

    async with async_engine.connect() as connection:
        with pytest.raises(OperationalError, match="disk is full") as raised:
            await attempt(connection)
        assert raised.value.connection_invalidated
        with pytest.raises(PendingRollbackError):
            await connection.run_sync(insert, "b")
        with pytest.raises(PendingRollbackError):
            await connection.commit()
        await connection.rollback()
        await connection.run_sync(insert, "c")
        await connection.commit()
    assert names(engine) == ["c"]


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_ended_unnoticed_is_noticed_before_the_commit(
    engine: Engine, statement: str
) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.exec_driver_sql(statement)
        with pytest.raises(TransactionLost, match="run the whole transaction again"):
            transaction.commit()
        transaction.rollback()
        with connection.begin():
            insert(connection, "next")
    assert names(engine) == ["next"]


def test_an_error_that_leaves_the_transaction_alone_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "a")
        with pytest.raises(IntegrityError) as raised:
            insert(connection, "a")
        assert not raised.value.connection_invalidated
        insert(connection, "b")
    assert names(engine) == ["a", "b"]


@pytest.mark.parametrize("through", ["connection", "cursor"])
@pytest.mark.parametrize("method", ["execute", "executemany", "executescript"])
def test_a_connection_that_was_cut_runs_no_statement_by_whichever_method(
    engine: Engine, through: str, method: str
) -> None:
    with engine.connect() as connection:
        insert(connection, "a")
        raw: Any = connection.connection.dbapi_connection
        cut(raw)
        user = raw if through == "connection" else raw.cursor()
        rest = ([()],) if method == "executemany" else ()
        with pytest.raises(sqlite3.OperationalError, match="ended from outside"):
            getattr(user, method)("INSERT INTO thing VALUES ('b', '')", *rest)
        connection.invalidate()
    assert names(engine) == []


async def test_a_commit_that_fails_leaves_no_lock_behind(
    async_engine: AsyncEngine, engine: Engine
) -> None:
    def refer_to_nothing(connection: Connection) -> None:
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS part "
            "(of TEXT REFERENCES thing DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.exec_driver_sql("INSERT INTO part VALUES ('none')")

    with pytest.raises(IntegrityError), engine.begin() as connection:
        refer_to_nothing(connection)
    async with async_engine.connect() as another:
        await another.run_sync(refer_to_nothing)
        with pytest.raises(IntegrityError):
            await another.commit()
    with engine.begin() as connection:
        insert(connection, "next")
    assert names(engine) == ["next"]


def test_autocommit_is_there_for_those_who_ask(
    make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    engine = make_sync_engine(database, pool_size=1, max_overflow=0)
    with engine.connect().execution_options(**READ_ONLY) as connection:
        connection.exec_driver_sql("SELECT 1")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM")
        insert(connection, "at once")
        connection.rollback()
    with engine.connect() as connection:  # the same one, and transactional again
        insert(connection, "dropped")
        connection.rollback()
        assert connection.connection.driver_connection.isolation_level is None  # type: ignore[union-attr]  # is connected
    assert names(engine) == ["at once"]
