"""What cannot be sent fails at the call, with the cause and the next step, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding.add import add
from outbox.adding.installation import install
from outbox.contract import StartSaga
from outbox.errors import (
    AutocommitRefused,
    InvalidMessage,
    MessageTooLarge,
    NotInTransaction,
    OutboxError,
    OutboxNotInstalled,
    UnconfiguredSQLite,
    Unrouted,
)
from outbox.messages import Message
from outbox.sqlite import READ_ONLY
from outbox.testing import sent
from tests.support.databases.databases import Database, Kind
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import (
    ROUTES,
    Fetch,
    Noted,
    Thing,
    Unheard,
    rows,
    things,
)

_SESSION = ["session"] if hasattr(Session, "execution_options") else []
"""SQLAlchemy 2.0 gives a session no options."""


@dataclass(frozen=True)
class Neither(Message, type="things.neither.v1", key="thing"):
    thing: str


RUN = "0190a000-0000-7000-8000-000000000001"


def _start(run: Any, begin_at: datetime | None = None) -> StartSaga:
    return StartSaga("book-trip", {}, run, begin_at)


BAD: list[tuple[Message, dict[str, Any], type[Exception], str]] = [
    (Unheard("a"), {}, Unrouted, "the event things.unheard.v1 has no route"),
    (Neither("a"), {}, InvalidMessage, "neither an Event nor a Command"),
    (Noted(7), {}, InvalidMessage, "the key 'thing' of things.noted.v1 is 7"),  # type: ignore[arg-type]  # wrong on purpose
    (Noted(""), {}, InvalidMessage, "the key 'thing' of things.noted.v1 is ''"),
    (Noted("a\nb"), {}, InvalidMessage, "none of them a control character"),
    (Noted("a" * 201), {}, InvalidMessage, "make it a text of 1 to 200 characters"),
    (Noted("a", None), {}, InvalidMessage, "'text'"),  # type: ignore[arg-type]  # wrong on purpose
    (Noted("a", "\0"), {}, InvalidMessage, "things.noted.v1"),
    (Noted("a", "\ud800"), {}, InvalidMessage, "things.noted.v1"),
    (Noted("a", "x" * 300_000), {}, MessageTooLarge, "the limit is 262144"),
    (Noted("a"), {"id": "7"}, InvalidMessage, "id='7' is not the id of a message"),
    (Noted("a"), {"correlation": 7}, InvalidMessage, "correlation=7 is not the id"),
    (Noted("a"), {"causation": "x"}, InvalidMessage, "causation='x' is not the id"),
    (Noted("a"), {"undoes": ["x"]}, InvalidMessage, "undoes='x' is not the id"),
    (Noted("a"), {"expires": datetime(2030, 1, 1)}, InvalidMessage, "expires=.* no time zone"),  # noqa: DTZ001  # wrong on purpose
    (Noted("a"), {"deliver_at": datetime(2030, 1, 1)}, InvalidMessage, "deliver_at=.* no time z"),  # noqa: DTZ001  # wrong on purpose
    (_start("6f0f9a1e-3d0f-4c3e-9d53-0d3b0f5f5f11"), {}, InvalidMessage, "cannot run under the id"),
    (_start(UUID(RUN)), {}, InvalidMessage, "cannot run under the id UUID"),
    (_start(RUN, datetime(2030, 1, 1)), {}, InvalidMessage, "no time zone"),  # noqa: DTZ001  # wrong on purpose
    (_start(RUN), {"deliver_at": datetime(2030, 1, 1, tzinfo=UTC)}, InvalidMessage, "as begin_at"),
    (Noted("a"), {"to": ""}, OutboxError, "'' is no name of a service"),
    (Noted("a"), {"to": "x" * 101}, OutboxError, "is no name of a service"),
    (Fetch("a"), {"reply_to": "a\nb"}, OutboxError, "is no name of a service"),
    (
        Fetch("a"),
        {"reply_to": "articles"},
        InvalidMessage,
        "'articles', and this service is 'things'",
    ),
    (Fetch("a"), {"lane": 7}, ValueError, "7 is not a valid Lane"),
]


@pytest.mark.databases("sqlite")  # it fails before a database has a say
@pytest.mark.parametrize(("message", "options", "error", "words"), BAD)
def test_a_message_that_cannot_be_sent_is_refused_at_the_call(
    engine: Engine,
    sessions: sessionmaker[Session],
    message: Message,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with sessions.begin() as session:
        add(session, Noted("good"))
        with pytest.raises(error, match=words):
            add(session, message, **options)
        assert sent(session) == [Noted("good")]
    assert [row["aggregateid"] for row in rows(engine)] == ["good"]


def test_a_service_may_set_a_lower_limit(sessions: sessionmaker[Session]) -> None:
    install(sessions, source="things", routes=ROUTES, max_bytes=100)
    with sessions.begin() as session, pytest.raises(MessageTooLarge, match="the limit is 100"):
        add(session, Noted("a", "x" * 100))


def test_a_session_without_a_transaction_is_refused(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        with pytest.raises(NotInTransaction, match=r'"with sessions\.begin\(\) as'):
            add(session, Noted("a"))
        session.begin()
        session.commit()
        with pytest.raises(NotInTransaction):
            add(session, Noted("a"))


def test_a_session_that_was_not_installed_is_refused(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    for other in (sessionmaker(engine)(), Session(engine)):
        with (
            other as session,
            session.begin(),
            pytest.raises(OutboxNotInstalled, match=r"this session's.*Service.*install\("),
        ):
            add(session, Noted("a"))


def test_what_is_no_session_is_refused(engine: Engine) -> None:
    with pytest.raises(OutboxError, match="was given a Engine in place of a session"):
        add(engine, Noted("a"))  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("where", ["engine", *_SESSION, "connection", "option of the engine"])
def test_a_session_in_autocommit_is_refused(
    make_sync_engine: MakeSyncEngine, database: Database, where: str
) -> None:
    autocommit: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    engine = make_sync_engine(database, **(autocommit if where == "engine" else {}))
    bound = engine.execution_options(**autocommit) if where == "option of the engine" else engine
    options: dict[str, Any] = {"execution_options": autocommit} if where == "session" else {}
    sessions = sessionmaker(bound, **options)
    install(sessions, source="things", routes=ROUTES)
    with sessions() as session:
        session.begin()
        if where == "connection":
            session.connection(execution_options=autocommit)
        if where == "engine" and database.kind is Kind.SQLITE:
            # A configured engine begins transactions all the same.
            add(session, Noted("a"))
        else:
            with pytest.raises(AutocommitRefused):
                add(session, Noted("a"))
    assert rows(make_sync_engine(database)) == []


def test_a_connection_that_turns_to_autocommit_later_stops_the_commit(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.begin()
        add(session, Noted("a"))
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(AutocommitRefused):
            session.commit()
    assert rows(engine) == []


@pytest.mark.databases("sqlite")
def test_an_unconfigured_sqlite_engine_is_refused(database: Database) -> None:
    engine = create_engine(database.sync_url)
    with pytest.raises(UnconfiguredSQLite, match=r"call outbox\.sqlite\.configure\(engine\)"):
        install(sessionmaker(engine), source="things", routes=ROUTES)
    with pytest.raises(UnconfiguredSQLite):
        install(engine, source="things", routes=ROUTES)
    unbound = sessionmaker()
    install(unbound, source="things", routes=ROUTES)
    with unbound(bind=engine) as session, session.begin(), pytest.raises(UnconfiguredSQLite):
        add(session, Noted("a"))
    engine.dispose()


@pytest.mark.databases("sqlite")
def test_a_message_in_a_read_only_session_fails_and_leaves_nothing(
    engine: Engine, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        session.connection(execution_options=READ_ONLY)
        assert things(session) == []
        add(session, Noted("a"))
        with pytest.raises(Exception, match="readonly"):
            session.commit()
    assert rows(engine) == []


# --- Installing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": ""}, "'' is no name of a service"),
        ({"routes": {Noted: "readers"}}, r"is the text 'readers' instead of a list; write it as"),
        ({"routes": {Noted: ["readers", "readers"]}}, "names a destination twice"),
        ({"routes": {Noted: [""]}}, "'' is no name of a service"),
        ({"routes": {"things.noted": []}}, "'things.noted' is not a message type"),
        ({"routes": {Message: []}}, "Message declares no message type"),
    ],
)
def test_a_wrong_installation_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OutboxError, match=words):
        install(sessionmaker(), **({"source": "things", "routes": {}} | options))


@pytest.mark.parametrize("target", [Session(), object()])
def test_a_wrong_target_is_refused(target: Any) -> None:
    with pytest.raises(OutboxError, match=r"outbox\.install\(\) was given a"):
        install(target, source="things", routes={})


def test_installing_leaves_other_sessions_of_the_same_class_alone(engine: Engine) -> None:
    class Own(Session):
        pass

    installed, other = sessionmaker(engine, class_=Own), sessionmaker(engine, class_=Own)
    install(installed, source="things", routes=ROUTES)
    with installed.begin() as session:
        assert isinstance(session, Own)
        session.add(Thing(name="a"))
        add(session, Noted("a"))
    with other() as session, session.begin(), pytest.raises(OutboxNotInstalled):
        add(session, Noted("a"))


async def test_an_async_sessionmaker_keeps_its_class_of_sessions_and_its_info() -> None:
    class Own(Session):
        pass

    engine = create_async_engine("postgresql+asyncpg://user@127.0.0.1:1/nothing")
    sessions = async_sessionmaker(engine, sync_session_class=Own, info={"mine": 1})
    install(sessions, source="things", routes=ROUTES)
    first = sessions.kw["sync_session_class"]
    install(sessions, source="things", routes={})
    async with sessions(info={"more": 2}) as session:
        assert isinstance(session.sync_session, Own)
        assert session.info["mine"] == 1
        assert session.info["more"] == 2
        assert sessions.kw["sync_session_class"] is first
    await engine.dispose()
