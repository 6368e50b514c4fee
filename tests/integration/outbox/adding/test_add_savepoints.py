"""A savepoint that is rolled back takes its own messages along, also if other code made it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding import connection_events
from outbox.adding.add import add
from outbox.errors import NotInTransaction
from outbox.testing import sent
from tests.support.outbox.producers import Noted, Thing, texts


def note(session: Session, text: str) -> None:
    add(session, Noted("a", text))


def sent_texts(session: Session) -> list[str]:
    return [message.text for message in sent(session) if isinstance(message, Noted)]


# --- Savepoints of the session -----------------------------------------------------------------


def test_a_released_savepoint_keeps_its_messages(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        note(session, "before")
        with session.begin_nested():
            note(session, "within")
            session.add(Thing(name="a"))
        note(session, "after")
    assert texts(engine) == ["before", "within", "after"]


def test_a_rolled_back_savepoint_takes_its_messages_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        note(session, "before")
        savepoint = session.begin_nested()
        session.add(Thing(name="a"))
        session.flush()
        note(session, "within")
        savepoint.rollback()
        assert sent_texts(session) == ["before"]
        note(session, "after")
    assert texts(engine) == ["before", "after"]


def test_a_savepoint_that_never_reached_the_database_takes_its_messages_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    """SQLAlchemy sends SAVEPOINT only with the first statement in it, and so may never send it."""
    with sessions.begin() as session:
        note(session, "before")
        savepoint = session.begin_nested()
        note(session, "within")
        savepoint.rollback()
        assert sent_texts(session) == ["before"]
    assert texts(engine) == ["before"]


def test_a_message_added_before_the_savepoint_was_sent_goes_with_it(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.connection()
        savepoint = session.begin_nested()
        note(session, "added before SAVEPOINT was sent")
        session.add(Thing(name="a"))
        session.flush()
        note(session, "added after it")
        savepoint.rollback()
        note(session, "kept")
    assert texts(engine) == ["kept"]


def test_the_first_message_of_all_may_be_within_savepoints(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        outer = session.begin_nested()
        inner = session.begin_nested()
        note(session, "inner")
        inner.commit()
        assert sent_texts(session) == ["inner"]
        note(session, "outer")
        outer.rollback()
        assert sent_texts(session) == []
        note(session, "kept")
    assert texts(engine) == ["kept"]


def test_savepoints_within_savepoints(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        note(session, "0")
        outer = session.begin_nested()
        note(session, "1")
        with session.begin_nested():
            note(session, "2")
        inner = session.begin_nested()
        note(session, "3")
        inner.rollback()
        note(session, "4")
        assert sent_texts(session) == ["0", "1", "2", "4"]
        outer.commit()
        last = session.begin_nested()
        note(session, "5")
        session.begin_nested()
        note(session, "6")
        last.rollback()
    assert texts(engine) == ["0", "1", "2", "4"]


def test_a_failed_flush_in_a_savepoint_takes_its_messages_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(Thing(name="a"))
    with sessions.begin() as session:
        note(session, "before")
        with pytest.raises(IntegrityError), session.begin_nested():
            note(session, "within")
            session.add(Thing(name="a"))
            session.flush()
        assert sent_texts(session) == ["before"]
    assert texts(engine) == ["before"]


def test_nothing_is_added_between_a_failed_flush_and_the_rollback(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        session.add(Thing(name="a"))
    with sessions() as session:
        session.add(Thing(name="a"))
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(NotInTransaction):
            note(session, "too late")


def test_a_whole_rollback_from_within_a_savepoint_drops_all(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        note(session, "before")
        session.begin_nested()
        note(session, "within")
        session.rollback()
        assert sent_texts(session) == []
        session.commit()
    assert texts(engine) == []


def test_the_release_of_a_savepoint_inserts_nothing(sessions: sessionmaker[Session]) -> None:
    """`before_commit` fires there too."""
    with sessions.begin() as session:
        with session.begin_nested():
            note(session, "within")
            session.add(Thing(name="a"))
        count = session.connection().exec_driver_sql("SELECT count(*) FROM outbox").scalar()
        assert count == 0


def test_a_commit_with_an_open_savepoint_keeps_the_messages(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        note(session, "before")
        session.begin_nested()
        note(session, "within")
        session.commit()
    assert texts(engine) == ["before", "within"]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("connected", [True, False])
def test_an_outer_block_that_ends_with_open_savepoints_keeps_the_messages(
    engine: Engine, sessions: sessionmaker[Session], depth: int, connected: bool
) -> None:
    """The commit is then announced while the savepoint is still the innermost transaction."""
    expected = ["before"]
    with sessions.begin() as session:
        if connected:
            session.connection()
        note(session, "before")
        for number in range(depth):
            session.begin_nested()
            note(session, str(number))
            expected.append(str(number))
    assert texts(engine) == expected


def test_a_savepoint_whose_release_was_tried_twice_may_still_be_rolled_back(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    """The second try looks like the commit of the whole, so that the messages are written then;
    those from before the savepoint are written again."""
    with sessions.begin() as session:
        note(session, "before")
        savepoint = session.begin_nested()
        note(session, "within")
        session.add(Thing(name="a"))

        def fail(_: Session) -> None:
            raise ZeroDivisionError

        event.listen(session, "before_commit", fail)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                savepoint.commit()
        event.remove(session, "before_commit", fail)
        savepoint.rollback()
        assert sent_texts(session) == ["before"]
    assert texts(engine) == ["before"]


# --- Savepoints of the session's plain connection ----------------------------------------------


def test_a_savepoint_of_the_plain_connection_takes_its_messages_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        note(session, "before")
        savepoint = session.connection().begin_nested()
        note(session, "within")
        savepoint.rollback()
        assert sent_texts(session) == ["before"]
        note(session, "after")
    assert texts(engine) == ["before", "after"]


def test_a_released_savepoint_of_the_plain_connection_keeps_its_messages(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        note(session, "before")
        outer = session.connection().begin_nested()
        with session.connection().begin_nested():
            note(session, "within")
        assert sent_texts(session) == ["before", "within"]
        outer.rollback()
        assert sent_texts(session) == ["before"]
    assert texts(engine) == ["before"]


def test_released_savepoints_leave_nothing_in_memory(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        note(session, "before")
        connection = session.connection()
        for _ in range(10):
            with connection.begin_nested(), session.begin_nested():
                session.execute(select(Thing))
        assert connection_events._watches[connection].savepoints == []
    assert connection not in connection_events._watches


def test_a_savepoint_of_the_plain_connection_may_be_older_than_the_first_message(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        connection = session.connection()
        with connection.begin_nested():
            pass
        outer = connection.begin_nested()
        inner = connection.begin_nested()
        note(session, "within")
        inner.commit()
        assert sent_texts(session) == ["within"]
        outer.rollback()
        assert sent_texts(session) == []
        note(session, "after")
    assert texts(engine) == ["after"]


def test_rolling_back_the_outer_of_two_plain_savepoints_takes_both_along(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        connection = session.connection()
        note(session, "before")
        outer = connection.begin_nested()
        note(session, "outer")
        inner = connection.begin_nested()
        note(session, "inner")
        inner.rollback()
        assert sent_texts(session) == ["before", "outer"]
        outer.rollback()
        assert sent_texts(session) == ["before"]
        last = connection.begin_nested()
        note(session, "last")
        last.commit()
    assert texts(engine) == ["before", "last"]


def test_savepoints_of_the_session_and_of_its_connection_may_be_mixed(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        note(session, "0")
        with session.begin_nested():
            note(session, "1")
            plain = session.connection().begin_nested()
            note(session, "2")
            plain.rollback()
            note(session, "3")
        plain = session.connection().begin_nested()
        note(session, "4")
        plain.rollback()
    assert texts(engine) == ["0", "1", "3"]
