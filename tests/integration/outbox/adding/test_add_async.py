"""`outbox.add` on an AsyncSession: the same promises, and no I/O where nothing can be awaited."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session

from outbox.adding.add import add
from outbox.adding.causes import Cause, caused_by
from outbox.adding.installation import Installation, install
from outbox.errors import MessagesLeftBehind, NotInTransaction
from outbox.testing import sent
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.producers import ROUTES, Noted, Thing, texts_async

ID = "0190a000-0000-7000-8000-000000000001"

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
def engine(make_engine: MakeEngine, database: Database) -> AsyncEngine:
    return make_engine(database)


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def installation(sessions: Sessions) -> Installation:
    return install(sessions, source="things", routes=ROUTES)


pytestmark = pytest.mark.usefixtures("installation")


def note(session: AsyncSession | Session, text: str) -> None:
    add(session, Noted("a", text))


async def test_p1_a_message_leaves_if_and_only_if_the_transaction_commits(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        session.add(Thing(name="a"))
        note(session, "committed")
        assert sent(session) == [Noted("a", "committed")]
    async with sessions() as session:
        await session.begin()
        note(session, "rolled back")
        await session.rollback()
        await session.begin()
        note(session, "closed")
    assert await texts_async(engine) == ["committed"]


async def test_messages_leave_in_the_order_in_which_they_were_added(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        for number in range(300):
            note(session, str(number))
    assert await texts_async(engine) == [str(number) for number in range(300)]


async def test_savepoints_take_their_messages_along(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        note(session, "before")
        async with session.begin_nested() as savepoint:
            note(session, "dropped")
            await savepoint.rollback()
        async with session.begin_nested():
            note(session, "kept")
        plain = await (await session.connection()).begin_nested()
        note(session, "dropped too")
        await plain.rollback()
    assert await texts_async(engine) == ["before", "kept"]


async def test_a_plain_function_adds_to_the_session_behind(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        caused_by(session, Cause(ID))
        await session.run_sync(lambda inner: note(inner, "within"))
    assert await texts_async(engine) == ["within"]


async def test_a_message_added_during_the_commit_leaves(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    def late(session: Session) -> None:
        note(session, "late")

    async with sessions() as session:
        event.listen(session.sync_session, "before_commit", late)
        await session.begin()
        note(session, "early")
        await session.commit()
    assert await texts_async(engine) == ["early", "late"]


async def test_a_transaction_goes_on_after_a_commit_that_a_listener_stopped(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    def stop(_: Session) -> None:
        raise ZeroDivisionError

    async with sessions() as session:
        event.listen(session.sync_session, "before_commit", stop)
        await session.begin()
        note(session, "one")
        with pytest.raises(ZeroDivisionError):
            await session.commit()
        event.remove(session.sync_session, "before_commit", stop)
        note(session, "two")
        await session.commit()
    assert await texts_async(engine) == ["one", "two"]


async def test_a_commit_by_the_plain_connection_is_stopped(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions() as session:
        await session.begin()
        note(session, "left behind")
        session.add(Thing(name="a"))
        await session.flush()
        with pytest.raises(MessagesLeftBehind):
            await (await session.connection()).commit()
        await session.rollback()
        assert await session.get(Thing, "a") is None
    assert await texts_async(engine) == []


async def test_it_needs_a_transaction(sessions: Sessions) -> None:
    async with sessions() as session:
        with pytest.raises(NotInTransaction, match=r'"async with sessions\.begin\(\) as'):
            note(session, "nowhere")


async def test_a_scoped_session_is_the_session_behind_it(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    scoped = async_scoped_session(sessions, asyncio.current_task)
    async with scoped.begin():
        add(scoped, Noted("a", "hello"))
    await scoped.remove()
    assert await texts_async(engine) == ["hello"]


async def test_the_bell_wakes_who_waits(sessions: Sessions, installation: Installation) -> None:
    waiting = asyncio.create_task(installation.bell.wait(10, since=installation.bell.rings))
    async with sessions.begin() as session:
        note(session, "hello")
    assert await waiting


async def test_many_sessions_at_once_keep_their_messages_apart(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    async def work(number: int) -> None:
        async with sessions() as session:
            await session.begin()
            note(session, f"{number}")
            session.add(Thing(name=f"{number}"))
            await session.flush()
            await (session.commit() if number % 2 else session.rollback())

    await asyncio.gather(*(work(number) for number in range(20)))
    assert sorted(map(int, await texts_async(engine))) == list(range(1, 20, 2))
