"""P6, the producers' half: messages of one key get their numbers in the order of the commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import delete, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from outbox import tables
from outbox.adding.add import add
from outbox.adding.insert import ORDER_LOCKS
from outbox.adding.installation import install
from outbox.database.sqlalchemy_internals import await_
from outbox.lanes import Lane
from outbox.testing import FakeClock
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.producers import ROUTES, Noted, Thing, texts_async
from tests.support.processes.waiting import until

WRITERS, MESSAGES = 12, 40

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
def engine(make_engine: MakeEngine, database: Database) -> AsyncEngine:
    return make_engine(database, pool_size=WRITERS + 2)


def installed(engine: AsyncEngine, *, ordered: bool = True) -> Sessions:
    sessions = async_sessionmaker(engine)
    install(sessions, source="things", routes=ROUTES, ordered=ordered)
    return sessions


async def overtaken(engine: AsyncEngine, sessions: Sessions) -> tuple[int, int]:
    """Let writers that share no row write to one key, while a reader looks again and again. Returns
    how many messages it saw for the first time after a later one, and how many there were.

    A relay that deletes what it has seen sends in the order in which this reader sees.
    """
    remaining = WRITERS

    async def write(writer: int) -> None:
        nonlocal remaining
        for number in range(MESSAGES):
            async with sessions() as session, session.begin():
                event.listen(session.sync_session, "before_commit", pause((writer + number) % 8))
                session.add(Thing(name=f"{writer} {number}"))
                add(session, Noted("one key"))
        remaining -= 1

    async def read() -> tuple[int, int]:
        seen: set[int] = set()
        late = 0
        while True:
            finished = remaining == 0
            async with engine.connect() as connection:
                found = set(await connection.scalars(select(tables.outbox.c.seq)))
            latest = max(seen, default=0)
            late += sum(seq < latest for seq in found - seen)
            seen |= found
            if finished:
                return late, len(seen)

    *_, result = await asyncio.gather(*(write(writer) for writer in range(WRITERS)), read())
    assert isinstance(result, tuple)
    return result


def pause(turns: int) -> Callable[[Session], None]:
    """A listener that lets the other tasks go on so often, between the insert and COMMIT."""

    def listener(_: Session) -> None:
        for _turn in range(turns):
            await_(asyncio.sleep(0))

    return listener


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_p6_writers_of_one_key_that_share_no_row_keep_the_order_of_their_commits(
    engine: AsyncEngine, level: str
) -> None:
    writing = engine.execution_options(isolation_level=level)
    assert await overtaken(engine, installed(writing)) == (0, WRITERS * MESSAGES)


@pytest.mark.databases("postgresql")
async def test_without_the_lock_messages_of_one_key_overtake_each_other(
    engine: AsyncEngine,
) -> None:
    """What the lock is for, and that the test above can see it. Users opt out by ordered=False."""
    sessions, late = installed(engine, ordered=False), 0
    for _ in range(10):  # it happens by chance, and nearly always at once
        late, count = await overtaken(engine, sessions)
        assert count == WRITERS * MESSAGES
        if late:
            break
        async with engine.begin() as connection:
            await connection.execute(delete(Thing))
            await connection.execute(delete(tables.outbox))
    assert late > 0


@pytest.mark.databases("postgresql")
async def test_a_writer_waits_for_the_commit_of_an_earlier_one_of_its_key(
    engine: AsyncEngine,
) -> None:
    """The interleaving itself: who draws the first number but commits last."""
    sessions = installed(engine)
    async with about_to_commit(sessions, Noted("one key", "first")):
        second = asyncio.create_task(commit(sessions, Noted("one key", "second")))
        await until(lambda: waits_for_a_lock(engine), what="the second writer's wait")
        async with asyncio.timeout(10):
            await commit(sessions, Noted("other key", "other"))
            await commit(sessions, Noted("one key", "other lane"), lane=Lane.URGENT)
        assert not second.done()
    await second
    assert await texts_async(engine) == ["first", "other", "other lane", "second"]


@pytest.mark.databases("postgresql")
async def test_while_a_writer_waits_for_one_of_its_keys_none_of_its_messages_has_a_number(
    engine: AsyncEngine,
) -> None:
    sessions = installed(engine)

    async def several() -> None:
        async with sessions.begin() as session:
            for key in ("free", "one key", "free"):
                add(session, Noted(key, f"of {key}"))

    async with about_to_commit(sessions, Noted("one key", "first")):
        waiting = asyncio.create_task(several())
        await until(lambda: waits_for_a_lock(engine), what="the second writer's wait")
        await commit(sessions, Noted("other key", "other"))
    await waiting
    assert await texts_async(engine) == ["first", "other", "of free", "of one key", "of free"]


@pytest.mark.databases("postgresql")
async def test_a_scheduled_message_waits_for_no_other_one(engine: AsyncEngine) -> None:
    sessions = installed(engine)
    async with about_to_commit(sessions, Noted("one key", "first")), asyncio.timeout(10):
        await commit(sessions, Noted("one key", "later"), deliver_at=FakeClock().now())
    assert await texts_async(engine) == ["first"]


@pytest.mark.databases("postgresql")
async def test_writers_that_take_the_same_keys_crosswise_do_not_deadlock(
    engine: AsyncEngine,
) -> None:
    sessions = installed(engine)
    keys = [f"key {number}" for number in range(10)]

    async def write(mine: Sequence[str]) -> None:
        for _ in range(30):
            async with sessions.begin() as session:
                for key in mine:
                    add(session, Noted(key))

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(keys if n % 2 else keys[::-1]) for n in range(8)))
    assert len(await texts_async(engine)) == 8 * 30 * len(keys)


@pytest.mark.databases("postgresql")
async def test_a_transaction_with_very_many_keys_does_not_fill_the_servers_table_of_locks(
    engine: AsyncEngine,
) -> None:
    sessions = installed(engine)
    held: list[int] = []

    def count_locks(session: Session) -> None:
        statement = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        held.append(session.connection().scalar(text(statement)) or 0)

    async with sessions() as session:
        event.listen(session.sync_session, "before_commit", count_locks)
        await session.begin()
        for number in range(6000):
            add(session, Noted(f"key {number}"))
        await session.commit()
    assert 0 < held[0] <= ORDER_LOCKS
    assert len(await texts_async(engine)) == 6000


async def test_p6_writers_that_share_a_row_keep_the_order_of_their_commits_without_the_lock(
    engine: AsyncEngine,
) -> None:
    """The number is drawn at the end of the transaction, after the row was locked."""
    sessions = installed(engine, ordered=False)
    async with sessions.begin() as session:
        session.add(Thing(name="shared"))
    order: list[str] = []

    async def write(writer: int) -> None:
        for number in range(20):
            async with sessions.begin() as session:
                token = f"{writer} {number}"
                add(session, Noted("shared", token))
                row = await session.get_one(Thing, "shared", with_for_update=True)
                row.text = token
                order.append(token)

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert await texts_async(engine) == order


@asynccontextmanager
async def about_to_commit(sessions: Sessions, message: Noted) -> AsyncIterator[None]:
    """Keep a transaction between the insert of its message and COMMIT while the block runs."""
    inserted, may_commit = asyncio.Event(), asyncio.Event()

    def pause(_: Session) -> None:
        inserted.set()
        await_(may_commit.wait())

    async def transaction() -> None:
        async with sessions() as session:
            event.listen(session.sync_session, "before_commit", pause)
            await session.begin()
            add(session, message)
            await session.commit()

    task = asyncio.create_task(transaction())
    await inserted.wait()
    try:
        yield
    finally:
        may_commit.set()
        await task


async def commit(sessions: Sessions, message: Noted, **options: Any) -> None:
    async with sessions.begin() as session:
        add(session, message, **options)


async def waits_for_a_lock(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        statement = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(await connection.scalar(text(statement)))
