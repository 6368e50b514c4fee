"""A message and the writes that it belongs to are in one database, or nothing is committed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.errors import SeveralDatabases
from outbox.sqlite import READ_ONLY
from tests.support.databases.databases import Database, Kind
from tests.support.databases.postgres import PostgresServer
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.producers import (
    ROUTES,
    Base,
    Noted,
    Thing,
    business,
    insert,
    names,
    texts,
)

REFUSED = "each commits by itself, so that one could be kept without the other; write in one datab"


@pytest.fixture
def elsewhere(make_sync_engine: MakeSyncEngine, database_factory: DatabaseFactory) -> Engine:
    return make_sync_engine(database_factory(business))


@pytest.fixture
def several(engine: Engine, elsewhere: Engine) -> sessionmaker[Session]:
    made = sessionmaker(engine, binds={Base: elsewhere})
    install(made, source="things", routes=ROUTES)
    return made


def note(session: Session, text: str) -> None:
    add(session, Noted("a", text))


def _look(session: Session) -> None:
    session.execute(select(Thing)).all()


def _after_ours(sessions: sessionmaker[Session], listener: Any) -> None:
    event.listen(sessions.class_, "before_commit", listener)


def test_a_message_and_a_write_in_another_database_are_refused_before_either_is_committed(
    several: sessionmaker[Session], engine: Engine, elsewhere: Engine
) -> None:
    with several() as session:
        session.begin()
        session.add(Thing(name="a"))
        note(session, "half")
        for _ in range(2):
            with pytest.raises(SeveralDatabases, match=REFUSED):
                session.commit()
    assert (texts(engine), names(elsewhere)) == ([], [])
    with several.begin() as session:
        session.add(Thing(name="without a message"))
    assert names(elsewhere) == ["without a message"]


async def test_the_same_holds_for_an_asynchronous_session(
    make_engine: MakeEngine,
    database: Database,
    database_factory: DatabaseFactory,
    make_sync_engine: MakeSyncEngine,
) -> None:
    other = database_factory(business)
    sessions = async_sessionmaker(make_engine(database), binds={Base: make_engine(other)})
    install(sessions, source="things", routes=ROUTES)
    with pytest.raises(SeveralDatabases, match=REFUSED):
        async with sessions.begin() as session:
            session.add(Thing(name="a"))
            add(session, Noted("a", "half"))
    assert (texts(make_sync_engine(database)), names(make_sync_engine(other))) == ([], [])


def test_the_same_holds_where_a_session_chooses_its_engine_itself(
    engine: Engine, elsewhere: Engine
) -> None:
    class Choosing(Session):
        def get_bind(self, mapper: Any = None, **rest: Any) -> Engine:
            return engine if mapper is None else elsewhere

    sessions = sessionmaker(class_=Choosing)
    install(sessions, source="things", routes=ROUTES)
    with pytest.raises(SeveralDatabases), sessions.begin() as session:
        note(session, "half")
        with session.begin_nested():
            session.add(Thing(name="a"))
    assert (texts(engine), names(elsewhere)) == ([], [])


def test_a_connection_of_the_callers_own_is_another_transaction_too(
    engine: Engine, elsewhere: Engine
) -> None:
    with elsewhere.connect() as outer:
        sessions = sessionmaker(engine, binds={Base: outer})
        install(sessions, source="things", routes=ROUTES)
        with outer.begin() as transaction:
            with pytest.raises(SeveralDatabases), sessions.begin() as session:
                session.add(Thing(name="a"))
                note(session, "half")
            if transaction.is_active:
                transaction.rollback()
    assert texts(engine) == []


@pytest.mark.databases("postgresql")
def test_a_row_that_is_locked_elsewhere_counts_as_written(
    several: sessionmaker[Session], engine: Engine, elsewhere: Engine
) -> None:
    with elsewhere.begin() as connection:
        insert(connection, "a")
    with pytest.raises(SeveralDatabases), several.begin() as session:
        session.get_one(Thing, "a", with_for_update=True)
        note(session, "half")
    assert texts(engine) == []


@pytest.mark.databases("postgresql")
def test_another_database_may_be_read(several: sessionmaker[Session], engine: Engine) -> None:
    with several.begin() as session:
        _look(session)
        note(session, "whole")
    assert texts(engine) == ["whole"]


@pytest.mark.databases("sqlite")
def test_another_file_may_be_read_by_a_reader(engine: Engine, elsewhere: Engine) -> None:
    reader = elsewhere.execution_options(**READ_ONLY)
    sessions = sessionmaker(engine, binds={Base: reader})
    install(sessions, source="things", routes=ROUTES)
    with sessions.begin() as session:
        _look(session)
        note(session, "whole")
    assert texts(engine) == ["whole"]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("has_looked", [True, False], ids=["begun before", "begun then"])
def test_what_is_written_elsewhere_during_the_commit_takes_all_of_it_back(
    several: sessionmaker[Session], engine: Engine, elsewhere: Engine, has_looked: bool
) -> None:
    """By a listener that comes after the library's: another database then takes reads alone."""
    _after_ours(several, lambda it: it.execute(text("SELECT 1"), bind_arguments=_OTHER))
    _after_ours(several, lambda it: it.add(Thing(name="late")))
    with pytest.raises(DBAPIError, match="read-only transaction"), several.begin() as session:
        if has_looked:
            _look(session)
        note(session, "half")
    assert (texts(engine), names(elsewhere)) == ([], [])


_OTHER = {"mapper": Thing}


def test_a_message_that_comes_during_the_commit_is_refused_after_a_write_elsewhere(
    several: sessionmaker[Session], engine: Engine, elsewhere: Engine
) -> None:
    _after_ours(several, lambda it: note(it, "late"))
    with pytest.raises(SeveralDatabases), several.begin() as session:
        session.add(Thing(name="a"))
    assert (texts(engine), names(elsewhere)) == ([], [])


def test_an_event_that_goes_nowhere_binds_nothing_together(
    engine: Engine, elsewhere: Engine
) -> None:
    sessions = sessionmaker(engine, binds={Base: elsewhere})
    install(sessions, source="things", routes={Noted: []})
    with sessions.begin() as session:
        session.add(Thing(name="a"))
        note(session, "to no service")
    assert names(elsewhere) == ["a"]


@pytest.mark.databases("postgresql")
def test_two_databases_commit_together_in_two_phases(make_sync_engine: MakeSyncEngine) -> None:
    server = PostgresServer(settings={"max_prepared_transactions": 5})
    try:
        server.create_database("other")
        engine, elsewhere = (
            make_sync_engine(Database(Kind.POSTGRESQL, url, url))
            for url in (server.url("postgres", "psycopg"), server.url("other", "psycopg"))
        )
        for each in (engine, elsewhere):
            with each.begin() as connection:
                business(connection)
        sessions = sessionmaker(engine, binds={Base: elsewhere}, twophase=True)
        install(sessions, source="things", routes=ROUTES)
        with sessions.begin() as session:
            session.add(Thing(name="a"))
            note(session, "whole")
        assert (texts(engine), names(elsewhere)) == (["whole"], ["a"])
    finally:
        server.close()
