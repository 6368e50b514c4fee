"""Transactions that other code commits or rolls back, and what a session added in them."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.errors import MessagesLeftBehind
from outbox.testing import sent
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import ROUTES, Noted, Thing, texts, things


def note(session: Session | Connection, text: str) -> None:
    add(session, Noted("a", text))


def test_a_commit_by_the_plain_connection_is_stopped(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        note(session, "left behind")
        session.add(Thing(name="a"))
        session.flush()
        with pytest.raises(MessagesLeftBehind, match=r"1 of the messages.*\(Noted\)"):
            session.connection().commit()
        session.rollback()
        assert things(session) == []
    assert texts(engine) == []


def test_a_commit_by_the_plain_connection_is_stopped_also_where_the_first_message_came_late(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        session.add(Thing(name="a"))
        session.flush()
        note(session, "left behind")
        with pytest.raises(MessagesLeftBehind):
            session.connection().commit()
        session.rollback()
    assert texts(engine) == []


def test_a_rollback_by_the_plain_connection_drops_the_messages(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        note(session, "dropped")
        session.connection().rollback()
        assert sent(session) == []
        session.close()
    assert texts(engine) == []


def test_a_session_that_no_code_closed_gives_its_connection_back(
    make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    engine = make_sync_engine(database, pool_size=1, max_overflow=0, pool_timeout=1)
    sessions = sessionmaker(engine)
    install(sessions, source="things", routes=ROUTES)

    def forget_one() -> None:
        session = sessions()
        session.begin()
        session.add(Thing(name="a"))
        session.flush()
        note(session, "dropped")

    forget_one()
    gc.collect()
    assert texts(engine) == []


def test_a_session_joins_a_transaction_that_other_code_commits(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with engine.begin() as connection:
        with sessions(bind=connection) as session:
            session.begin()
            note(session, "joined")
            session.commit()
        assert texts(engine) == []
    assert texts(engine) == ["joined"]


def test_a_session_joins_a_transaction_that_other_code_rolls_back(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        with sessions(bind=connection) as session:
            session.begin()
            note(session, "joined")
            session.commit()
        transaction.rollback()
    assert texts(engine) == []


@pytest.mark.parametrize("flushed", [True, False])
def test_the_owner_cannot_commit_what_a_session_added_and_never_committed(
    engine: Engine, sessions: sessionmaker[Session], flushed: bool
) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        with sessions(bind=connection) as session:
            session.begin()
            if flushed:
                session.add(Thing(name="a"))
                session.flush()
            note(session, "left behind")
        with pytest.raises(MessagesLeftBehind):
            transaction.commit()
        transaction.rollback()
        # The next transaction of that connection has nothing to do with it.
        with connection.begin(), sessions(bind=connection) as session:
            session.begin()
            assert things(session) == []
            note(session, "next")
            session.commit()
    assert texts(engine) == ["next"]


def test_the_owner_commits_after_a_session_was_rolled_back_to_its_savepoint(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    mode: Any = {"join_transaction_mode": "create_savepoint"}
    with engine.begin() as connection:
        with sessions(bind=connection, **mode) as session:
            session.begin()
            note(session, "before the savepoint is sent")
            session.add(Thing(name="a"))
            session.flush()
            note(session, "after it")
            session.rollback()
            session.begin()
            note(session, "kept")
            session.commit()
        with sessions(bind=connection, **mode) as session:
            session.begin()
            session.add(Thing(name="a"))
            session.flush()
            note(session, "closed")
        with sessions(bind=connection, **mode) as session:
            assert things(session) == []
    assert texts(engine) == ["kept"]


def test_a_savepoint_around_a_session_takes_its_messages_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        with sessions(bind=connection) as session:
            session.begin()
            note(session, "dropped")
            session.add(Thing(name="a"))
            session.commit()
        savepoint.rollback()
        with sessions(bind=connection) as session:
            session.begin()
            assert things(session) == []
            note(session, "kept")
            session.commit()
    assert texts(engine) == ["kept"]


def test_two_sessions_share_one_connection(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        with sessions(bind=connection) as one, sessions(bind=connection) as other:
            one.begin()
            other.begin()
            note(one, "one")
            note(other, "other")
            savepoint = connection.begin_nested()
            note(one, "dropped")
            note(other, "dropped too")
            savepoint.rollback()
            one.commit()
            with pytest.raises(MessagesLeftBehind, match="1 of the messages"):
                transaction.commit()
            transaction.rollback()
            assert (list(sent(one)), list(sent(other))) == ([], [])
    assert texts(engine) == []

    with (
        engine.begin() as connection,
        sessions(bind=connection) as one,
        sessions(bind=connection) as other,
    ):
        one.begin()
        other.begin()
        note(one, "one")
        note(other, "other")
        one.commit()
        other.commit()
    assert texts(engine) == ["one", "other"]
