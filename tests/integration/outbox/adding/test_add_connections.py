"""`outbox.add` on a Core connection: the message is inserted at once, in its transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.coordination.bell import Bell
from outbox.errors import (
    AutocommitRefused,
    NotInTransaction,
    OutboxError,
    OutboxNotInstalled,
)
from tests.support.databases.databases import Database, Kind, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.producers import ROUTES, Noted, Shouted, rows, texts


@pytest.fixture
def database_schema() -> Schema | str:
    return "outbox"


@pytest.fixture
def engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    made = make_sync_engine(database)
    install(made, source="things", routes=ROUTES)
    return made


@pytest.fixture
async def async_engine(make_engine: MakeEngine, database: Database) -> AsyncEngine:
    made = make_engine(database)
    install(made, source="things", routes=ROUTES)
    return made


def note(connection: Connection, text: str) -> None:
    add(connection, Noted("a", text))


def test_p1_a_message_commits_with_its_connection(engine: Engine) -> None:
    with engine.begin() as connection:
        note(connection, "hello")
        add(connection, Shouted("a"))
    assert [row["destination"] for row in rows(engine)] == ["readers", "readers", "listeners"]


def test_p1_a_message_is_rolled_back_with_its_connection(engine: Engine) -> None:
    with engine.connect() as connection:
        with connection.begin() as transaction:
            note(connection, "dropped")
            transaction.rollback()
        with connection.begin():
            with connection.begin_nested() as savepoint:
                note(connection, "dropped too")
                savepoint.rollback()
            note(connection, "kept")
    assert texts(engine) == ["kept"]


async def test_a_message_is_added_on_the_synchronous_side_of_an_async_connection(
    async_engine: AsyncEngine, engine: Engine
) -> None:
    async with async_engine.begin() as connection:
        await connection.run_sync(lambda inner: note(inner, "hello"))
    assert texts(engine) == ["hello"]


async def test_an_async_connection_itself_is_refused_with_the_way_to_do_it(
    async_engine: AsyncEngine,
) -> None:
    async with async_engine.begin() as connection:
        with pytest.raises(OutboxError, match=r"await connection\.run_sync\(lambda c: outbox.add"):
            add(connection, Noted("a"))  # type: ignore[arg-type]  # that is the point


def test_it_needs_a_transaction(engine: Engine) -> None:
    words = r'"with engine\.begin\(\) as connection:"'
    with engine.connect() as connection, pytest.raises(NotInTransaction, match=words):
        note(connection, "nowhere")


def test_it_needs_an_installation(make_sync_engine: MakeSyncEngine, database: Database) -> None:
    with (
        make_sync_engine(database).begin() as connection,
        pytest.raises(OutboxNotInstalled, match="this connection's messages"),
    ):
        note(connection, "nowhere")


def test_it_needs_a_transactional_isolation_level(engine: Engine) -> None:
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        connection.begin(),
        pytest.raises(AutocommitRefused),
    ):
        note(connection, "alone")
    assert texts(engine) == []


def test_a_later_installation_replaces_the_earlier_one(engine: Engine) -> None:
    install(engine, source="others", routes={})
    with engine.begin() as connection, pytest.raises(OutboxError, match="has no route"):
        note(connection, "nowhere")


def test_the_bell_rings_when_the_connection_is_given_back_or_begins_anew(engine: Engine) -> None:
    bell = Bell()
    install(engine, source="things", routes=ROUTES, bell=bell)
    with engine.connect() as connection:
        with connection.begin():
            note(connection, "one")
            assert bell.rings == 0
        with connection.begin():
            assert bell.rings == 1
            note(connection, "two")
        assert bell.rings == 1
    assert bell.rings == 2
    with engine.begin():
        pass
    assert bell.rings == 2


@pytest.mark.databases("postgresql")
def test_a_connection_for_each_statement_is_refused_however_it_was_asked_for(
    make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    assert database.kind is Kind.POSTGRESQL
    engine = make_sync_engine(database, isolation_level="AUTOCOMMIT")
    install(engine, source="things", routes=ROUTES)
    with engine.begin() as connection, pytest.raises(AutocommitRefused):
        note(connection, "alone")
