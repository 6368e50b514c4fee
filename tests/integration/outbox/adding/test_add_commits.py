"""While a transaction commits, no message is left behind, and none slips out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, sessionmaker

from outbox import tables
from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.errors import MessagesLeftBehind, NotInTransaction, OutboxError
from outbox.sqlite import READ_ONLY
from outbox.testing import sent
from tests.support.databases.databases import Database, Kind
from tests.support.databases.postgres import PostgresServer
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine
from tests.support.outbox.producers import ROUTES, Base, Noted, Thing, business, texts, things


def note(session: Session | Connection, text: str) -> None:
    add(session, Noted("a", text))


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def once(action: Callable[[Session], None]) -> Callable[..., None]:
    done: list[bool] = []

    def listener(session: Session, *_: object) -> None:
        if not done:
            done.append(True)
            action(session)

    return listener


# --- Messages that come late -------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment", ["before_commit", "before_flush", "after_flush", "after_flush_postexec"]
)
@pytest.mark.parametrize("had_one_before", [True, False])
def test_a_message_added_during_the_commit_leaves(
    engine: Engine, sessions: sessionmaker[Session], moment: str, had_one_before: bool
) -> None:
    expected = ["early"] if had_one_before else []
    with sessions() as session, listening(session, moment, once(lambda it: note(it, "late"))):
        session.begin()
        session.add(Thing(name="a"))
        if had_one_before:
            note(session, "early")
        session.commit()
    assert texts(engine) == [*expected, "late"]


def test_a_message_added_by_the_flush_that_another_listener_caused_leaves(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    """SQLAlchemy flushes once more after `before_commit`, when the messages have been drained."""

    def dirty(session: Session) -> None:
        session.add(Thing(name="late"))

    with (
        sessions() as session,
        listening(session, "before_commit", dirty),
        listening(session, "after_flush", lambda it, _: note(it, f"flush of {len(it.new)}")),
    ):
        session.begin()
        note(session, "early")
        session.commit()
    assert texts(engine) == ["early", "flush of 1"]


def test_a_flush_in_the_commit_that_dirties_the_session_again_is_followed_to_its_end(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    rounds = iter(["b", "c", "d"])

    def again(session: Session, *_: object) -> None:
        for name in rounds:
            session.add(Thing(name=name))
            note(session, name)
            return

    with sessions() as session, listening(session, "after_flush_postexec", again):
        session.begin()
        session.add(Thing(name="a"))
        session.commit()
    assert texts(engine) == ["b", "c", "d"]
    with sessions() as session:
        assert things(session) == ["a", "b", "c", "d"]


def test_messages_of_the_commits_own_flushes_are_inserted_after_all_of_these(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    statements: list[str] = []
    more = iter(["b", "c"])

    def keep(_c: Any, _cursor: Any, statement: str, *_: object) -> None:
        if "INSERT INTO " in statement:
            statements.append(statement.partition("INSERT INTO ")[2].split()[0])

    def note_the_second(session: Session, _: object) -> None:
        if any(thing.name == "b" for thing in session.new if isinstance(thing, Thing)):
            note(session, "b")

    def add_one_more(session: Session, _: object) -> None:
        for name in more:
            session.add(Thing(name=name))
            return

    with (
        sessions() as session,
        listening(session, "after_flush", note_the_second),
        listening(session, "after_flush_postexec", add_one_more),
        listening(engine, "before_cursor_execute", keep),
    ):
        session.begin()
        session.add(Thing(name="a"))
        session.commit()
    assert statements == ["thing", "thing", "thing", "outbox"]


def test_flushes_without_end_are_an_error(engine: Engine, sessions: sessionmaker[Session]) -> None:
    def endless(session: Session, *_: object) -> None:
        note(session, "again")

    with sessions() as session, listening(session, "after_flush_postexec", endless):
        session.begin()
        session.add(Thing(name="a"))

        def more(inner: Session, *_: object) -> None:
            inner.add(Thing(name=f"more {len(sent(inner))}"))

        with (
            listening(session, "after_flush_postexec", more),
            pytest.raises(MessagesLeftBehind, match="each of 100 flushes"),
        ):
            session.commit()
    assert texts(engine) == []


def test_nothing_is_added_once_the_transaction_has_committed(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    def too_late(session: Session) -> None:
        with pytest.raises(NotInTransaction):
            note(session, "too late")

    with sessions() as session, listening(session, "after_commit", too_late):
        session.begin()
        note(session, "in time")
        session.commit()
    assert texts(engine) == ["in time"]


def test_a_commit_that_another_listener_stopped_may_be_tried_again(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    def stop(_: Session) -> None:
        raise ZeroDivisionError

    with sessions() as session:
        session.begin()
        note(session, "one")
        with listening(session, "before_commit", stop), pytest.raises(ZeroDivisionError):
            session.commit()
        note(session, "two")
        session.commit()
    assert texts(engine) == ["one", "two"]


# --- Several engines ---------------------------------------------------------------------------


def test_messages_go_to_the_engine_that_the_outbox_table_is_bound_to(
    make_sync_engine: MakeSyncEngine, database_factory: DatabaseFactory
) -> None:
    here = make_sync_engine(database_factory(business))
    elsewhere = make_sync_engine(database_factory(business)).execution_options(**READ_ONLY)
    sessions = sessionmaker(binds={Base: elsewhere, tables.outbox: here})
    install(sessions, source="things", routes=ROUTES)
    with sessions.begin() as session:
        note(session, "here")
        plain = session.connection(bind_arguments={"mapper": Thing}).begin_nested()
        assert things(session) == []
        note(session, "kept, since the savepoint is the other database's")
        plain.rollback()
    assert len(texts(here)) == 2
    assert texts(elsewhere) == []


def test_a_session_without_an_engine_for_the_outbox_is_told_so(engine: Engine) -> None:
    sessions = sessionmaker(binds={Base: engine})
    install(sessions, source="things", routes=ROUTES)
    with sessions() as session:
        session.begin()
        with pytest.raises(OutboxError, match=r"has no engine for the outbox table; bind"):
            note(session, "lost")


# --- Two phases --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def preparing_server() -> Iterator[PostgresServer]:
    server = PostgresServer(settings={"max_prepared_transactions": 5})
    yield server
    server.close()


def test_a_message_leaves_with_a_transaction_in_two_phases(
    preparing_server: PostgresServer, make_sync_engine: MakeSyncEngine
) -> None:
    url = preparing_server.url("postgres", "psycopg")
    engine = make_sync_engine(Database(Kind.POSTGRESQL, url, url))
    with engine.begin() as connection:
        business(connection)
    sessions = sessionmaker(engine, twophase=True)
    install(sessions, source="things", routes=ROUTES)
    with sessions() as session:
        session.begin()
        note(session, "prepared")
        session.prepare()
        assert texts(engine) == []
        with pytest.raises(NotInTransaction):
            note(session, "too late")
        session.commit()
        assert texts(engine) == ["prepared"]
        session.begin()
        note(session, "dropped")
        session.prepare()
        session.rollback()
        session.begin()
        note(session, "left behind")
        session.add(Thing(name="a"))
        session.flush()
        transaction: Any = session.connection().get_transaction()
        with pytest.raises(MessagesLeftBehind):
            transaction.prepare()
        session.rollback()
    assert texts(engine) == ["prepared"]
