"""P1: a message leaves if and only if the transaction that added it committed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from outbox.adding.add import add
from outbox.adding.causes import Cause, caused_by
from outbox.adding.installation import Installation, install
from outbox.coordination.bell import Bell
from outbox.database.sqlalchemy_internals import connections_of
from outbox.ids import is_id
from outbox.lanes import Lane, bucket_of
from outbox.testing import FakeClock, sent
from outbox.wire.envelope import from_row
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import (
    ROUTES,
    Fetch,
    Noted,
    Shouted,
    Thing,
    in_transaction,
    rows,
    texts,
    things,
)

ID = "0190a000-0000-7000-8000-000000000001"
SAGA = "0190a000-0000-7000-8000-000000000002"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def installation(sessions: sessionmaker[Session], clock: FakeClock) -> Installation:
    return install(sessions, source="things", routes=ROUTES, clock=clock)


pytestmark = pytest.mark.usefixtures("installation")


def test_p1_a_committed_message_is_in_the_outbox(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(Thing(name="a"))
        add(session, Noted("a", "hello"))
    assert texts(engine) == ["hello"]


def test_p1_a_rolled_back_message_never_was(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    def fail(session: Session) -> None:
        session.add(Thing(name="a"))
        session.flush()
        add(session, Noted("a", "hello"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_transaction(sessions, fail)
    assert texts(engine) == []
    with sessions() as session:
        assert things(session) == []


def test_p1_a_message_whose_commit_fails_never_was(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    def note_the_thing(session: Session) -> None:
        add(session, Noted("a", "hello"))
        session.add(Thing(name="a"))

    in_transaction(sessions, note_the_thing)
    with pytest.raises(IntegrityError):
        in_transaction(sessions, note_the_thing)
    assert texts(engine) == ["hello"]


def test_a_message_is_inserted_after_everything_else(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    """Pitfall: its number must be drawn after the rows that it is about were locked."""
    with sessions.begin() as session:
        add(session, Noted("a", "hello"))
        session.add(Thing(name="a"))
        session.flush()
        assert session.connection().exec_driver_sql("SELECT count(*) FROM outbox").scalar() == 0
    assert texts(engine) == ["hello"]


def test_adding_sends_nothing_to_the_database(
    make_sync_engine: MakeSyncEngine, database: Database, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session, session.begin():
        add(session, Noted("a", "hello"))
        transaction = session.get_transaction()
        assert transaction is not None
        assert not connections_of(transaction)


def test_messages_leave_in_the_order_in_which_they_were_added(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        for number in range(30):
            add(session, Noted("a", str(number)))
    assert texts(engine) == [str(number) for number in range(30)]


def test_a_session_commits_twice(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        for text in ("one", "two"):
            session.begin()
            add(session, Noted("a", text))
            session.commit()
            assert sent(session) == []
    assert texts(engine) == ["one", "two"]


def test_a_session_goes_on_after_a_rollback(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        add(session, Noted("a", "one"))
        session.rollback()
        assert sent(session) == []
        session.begin()
        add(session, Noted("a", "two"))
        session.commit()
    assert texts(engine) == ["two"]


def test_a_session_that_is_closed_drops_its_messages(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        add(session, Noted("a", "one"))
        session.close()
        session.begin()
        add(session, Noted("a", "two"))
        session.commit()
    assert texts(engine) == ["two"]


def test_it_works_without_autoflush(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with sessions(autoflush=False) as session, session.begin():
        session.add(Thing(name="a"))
        add(session, Noted("a", "hello"))
    assert texts(engine) == ["hello"]
    with sessions() as session:
        assert things(session) == ["a"]


def test_two_sessions_at_once_do_not_know_of_each_other(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as one, sessions() as other:
        one.begin()
        other.begin()
        add(one, Noted("a", "one"))
        add(other, Noted("b", "other"))
        other.rollback()
        one.commit()
    assert texts(engine) == ["one"]


def test_a_scoped_session_is_the_session_behind_it(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    scoped = scoped_session(sessions)
    with scoped.begin():
        add(scoped, Noted("a", "hello"))
    scoped.remove()
    assert texts(engine) == ["hello"]


def test_a_row_holds_the_whole_envelope(
    engine: Engine, sessions: sessionmaker[Session], clock: FakeClock
) -> None:
    with sessions.begin() as session:
        identifier = add(
            session,
            Fetch("a"),
            correlation=SAGA,
            causation=ID,
            reply_to="things",
            undoes=[ID],
            expires=datetime(2031, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
            lane=Lane.URGENT,
        )
    (row,) = rows(engine)
    assert is_id(identifier)
    assert row["id"] == identifier
    assert (row["destination"], row["bucket"]) == ("stores", bucket_of(Lane.URGENT, "a"))
    assert (row["aggregatetype"], row["aggregateid"]) == ("stores", "a")
    assert row["type"] == "stores.fetch.v1"
    envelope = from_row(
        row["id"],
        row["type"],
        row["aggregateid"],
        row["occurred_at"],
        row["payload"],
        row["headers"],
    )
    assert envelope.source == "things"
    assert envelope.time == clock.now()
    assert json.loads(envelope.data) == {"thing": "a"}
    assert (envelope.correlation, envelope.causation) == (SAGA, ID)
    assert (envelope.reply_to, envelope.undoes) == ("things", (ID,))
    assert envelope.expires == datetime(2031, 1, 1, tzinfo=UTC)


def test_an_event_has_a_row_for_each_destination_under_one_id(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        add(session, Shouted("a"))
    first, second = rows(engine)
    assert first["id"] == second["id"]
    assert [first["destination"], second["destination"]] == ["readers", "listeners"]


def test_a_named_destination_takes_the_place_of_the_route(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        add(session, Shouted("a"), to="elsewhere")
        add(session, Fetch("a"), to="else")
    assert [row["destination"] for row in rows(engine)] == ["elsewhere", "else"]


def test_an_event_without_listeners_on_purpose_has_no_row(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    install(sessions, source="things", routes={Noted: ()})
    with sessions.begin() as session:
        assert is_id(add(session, Noted("a")))
        assert sent(session) == [Noted("a")]
    assert rows(engine) == []


def test_a_message_keeps_the_id_that_it_is_given(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        assert add(session, Noted("a"), id=ID) == ID
    assert [row["id"] for row in rows(engine)] == [ID]


def test_a_message_for_later_waits_among_the_scheduled_ones(
    engine: Engine, sessions: sessionmaker[Session], clock: FakeClock
) -> None:
    due = clock.now() + timedelta(hours=1)
    with sessions.begin() as session:
        add(session, Shouted("a"), deliver_at=due)
    assert rows(engine) == []
    scheduled = rows(engine, "outbox_scheduled")
    assert [row["due_at"] for row in scheduled] == [due, due]
    assert {row["destination"] for row in scheduled} == {"readers", "listeners"}


def test_a_change_after_the_call_has_no_effect(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    message = Noted("a", "before")
    with sessions.begin() as session:
        add(session, message)
        object.__setattr__(message, "text", "after")
        assert sent(session) == [Noted("a", "before")]
    assert texts(engine) == ["before"]


def test_messages_carry_what_caused_them(engine: Engine, sessions: sessionmaker[Session]) -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    with sessions.begin() as session:
        caused_by(session, Cause(ID, correlation=SAGA, trace=trace))
        add(session, Noted("a"))
        add(session, Noted("a"), correlation=ID, causation=SAGA)
        caused_by(session, None)
        add(session, Noted("a"))
    inherited, given, nothing = (json.loads(row["headers"]) for row in rows(engine))
    assert inherited["correlationid"] == SAGA
    assert inherited["causationid"] == ID
    assert inherited["traceparent"] == trace
    assert (given["correlationid"], given["causationid"]) == (ID, SAGA)
    assert nothing.keys() == {"source", "due"}


def test_the_current_span_is_the_trace(engine: Engine, sessions: sessionmaker[Session]) -> None:
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    token = attach(set_span_in_context(NonRecordingSpan(context)))
    try:
        with sessions.begin() as session:
            caused_by(session, Cause(ID, trace="00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
            add(session, Noted("a"))
    finally:
        detach(token)
    (row,) = rows(engine)
    assert json.loads(row["headers"])["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"


def test_the_bell_rings_after_the_commit_and_only_then(
    engine: Engine, sessions: sessionmaker[Session], clock: FakeClock
) -> None:
    seen: list[list[str]] = []

    class Observed(Bell):
        def ring(self) -> None:
            seen.append(texts(engine))

    install(sessions, source="things", routes=ROUTES, clock=clock, bell=Observed())
    with sessions() as session:
        session.begin()
        with session.begin_nested():
            add(session, Noted("a", "one"))
        assert seen == []
        session.commit()
        assert seen == [["one"]]
        session.begin()
        add(session, Noted("a", "two"))
        session.rollback()
        session.begin()
        session.add(Thing(name="a"))
        session.commit()
    assert seen == [["one"]]


def test_sent_tells_what_the_transaction_added(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        assert sent(session) == []
        add(session, Noted("a", "one"))
        add(session, Fetch("b"))
        assert sent(session) == [Noted("a", "one"), Fetch("b")]
