"""The inbox while its database is in trouble: never a half answer, and the same batch, sent again,
finds out what took effect."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from outbox.errors import (
    AutocommitRefused,
    IsolationRefused,
    TransactionLost,
    UnconfiguredSQLite,
)
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.limits import InboxLimits
from outbox.inbox.rows import State
from outbox.replies import Outcome, Reply
from outbox.tables import inbox
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.inboxes import (
    PATIENT,
    START,
    Bench,
    Book,
    Names,
    Noted,
    bank,
    envelope,
    write_entry,
)
from tests.support.processes.waiting import free_port

DONE = Reply(Outcome.DONE)


def losing_its_connection() -> Handlers:
    """A handler whose own backend is ended by the server, as by a restart."""
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await write_entry(session, note.entry, context.id)
        if note.entry == "lost" and context.attempt == 1:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    return handlers


async def test_a_database_that_is_away_is_no_messages_trouble(names: Names) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://user@127.0.0.1:{free_port()}/none")
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words, in many forms
        await Bench(engine).receive(envelope(names(), Noted("a")))
    await engine.dispose()


@pytest.mark.databases("postgresql")
async def test_a_connection_lost_in_a_handler_uses_up_no_attempt_of_the_message(
    engine: AsyncEngine, names: Names
) -> None:
    bench = Bench(engine, losing_its_connection())
    entries = ["1", "lost", "2"]
    notes = [Noted(account, entry) for account, entry in zip("abc", entries, strict=True)]
    batch = [envelope(names(), note) for note in notes]
    with pytest.raises(DBAPIError):
        await bench.receive(*batch)
    assert await bench.entries() == []
    assert await bench.receive(*batch) == [DONE] * 3
    assert await bench.entries() == entries


@pytest.mark.databases("postgresql")
async def test_a_handler_that_hides_the_loss_of_its_connection_is_not_believed(
    engine: AsyncEngine, names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        try:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        except DBAPIError as error:
            hidden.append(error)

    hidden: list[DBAPIError] = []
    bench = Bench(engine, handlers)
    with pytest.raises(TransactionLost, match="the connection to the database broke"):
        await bench.receive(envelope(names(), Noted("a")))
    assert hidden
    assert await bench.states() == {}


@pytest.mark.databases("sqlite")
async def test_a_writer_that_holds_the_database_for_long_is_no_messages_trouble(
    engine: AsyncEngine, names: Names
) -> None:
    impatient = InboxLimits(transaction=0.05, answer_within=1.0)
    bench = Bench(engine, limits=impatient)
    note = envelope(names(), Noted("a"))
    async with engine.begin():
        with pytest.raises(TimeoutError):
            await bench.receive(note)
    assert await Bench(engine).receive(note) == [DONE]


@pytest.mark.databases("sqlite")
async def test_a_full_disk_rolls_everything_back_and_freeing_it_mends_it(
    engine: AsyncEngine, names: Names
) -> None:
    async with engine.connect() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    bench = Bench(engine)
    batch = [envelope(names(), Book("a", "x" * 100)) for _ in range(200)]
    with pytest.raises(Exception, match="full"):
        await bench.receive(*batch)
    assert await bench.entries() == []
    assert await bench.states() == {}
    async with engine.connect() as connection:
        await connection.execute(text("PRAGMA max_page_count = 100000"))
    replies = await bench.receive(*batch)
    assert {reply.outcome for reply in replies} == {Outcome.DONE}
    assert len(await bench.entries()) == 200


class AnswerLost(AsyncSession):
    """A session whose first commit happens, or not, while the answer to it is lost."""

    lost: bool
    happens: bool

    async def commit(self) -> None:
        if not type(self).lost:
            type(self).lost = True
            if self.happens:
                await super().commit()
            raise OperationalError("COMMIT", None, ConnectionError(), connection_invalidated=True)
        await super().commit()


@pytest.mark.parametrize("happens", [True, False])
async def test_after_a_commit_of_unknown_outcome_the_same_batch_finds_out(
    engine: AsyncEngine, names: Names, happens: bool
) -> None:
    class Sessions(AnswerLost):
        lost = False

    Sessions.happens = happens
    bench = Bench(engine, sessions=async_sessionmaker(engine, class_=Sessions))
    batch = [envelope(names(), Book(entry, entry)) for entry in ("1", "2")]
    with pytest.raises(OperationalError):
        await bench.receive(*batch)
    assert Sessions.lost
    assert await bench.receive(*batch) == [Reply(Outcome.DONE, value={"balance": 1})] * 2
    assert await bench.entries() == ["1", "2"]


@pytest.mark.databases("postgresql")
async def test_a_copy_waits_for_an_old_backend_that_may_still_commit(
    engine: AsyncEngine, names: Names
) -> None:
    """Looking at once would not find out: the transaction of the lost answer is still open."""
    entered, go = asyncio.Event(), asyncio.Event()
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await write_entry(session, note.entry, context.id)
        entered.set()
        await go.wait()

    patient = InboxLimits(transaction=20, lock=20, answer_within=50)
    note = envelope(names(), Noted("a", "news"))
    old, new = (Bench(engine, handlers, limits=patient) for _ in range(2))
    first = asyncio.create_task(old.receive_one(note))
    await entered.wait()
    second = asyncio.create_task(new.receive_one(note))
    done, _ = await asyncio.wait([second], timeout=0.2)
    assert not done
    go.set()
    assert [await first, await second] == [DONE, DONE]
    assert await new.entries() == ["news"]


@pytest.mark.databases("postgresql")
async def test_a_lock_that_is_held_too_long_makes_it_too_busy_not_failed(
    engine: AsyncEngine, names: Names
) -> None:
    quick = InboxLimits(lock=0.1, answer_within=30)
    handlers = bank(without=Noted)

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await session.execute(text("LOCK TABLE outbox_dead"))

    bench = Bench(engine, handlers, limits=quick)
    batch = [
        envelope(names(), Noted("a")),
        envelope(names(), Noted("a")),
        envelope(names(), Book("b")),
    ]
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE outbox_dead"))
        replies = await bench.receive(*batch)
    assert [reply.outcome for reply in replies] == [
        Outcome.TOO_BUSY,
        Outcome.NOT_ATTEMPTED,
        Outcome.DONE,
    ]
    assert [reply.outcome for reply in await bench.receive(*batch)] == [Outcome.DONE] * 3


@pytest.mark.databases("postgresql")
async def test_what_waits_for_the_row_of_a_command_in_hand_waits_no_longer_than_it_may(
    engine: AsyncEngine, names: Names
) -> None:
    command = envelope(names(), Book("a"))
    row = {"consumer": "bank", "id": command.id, "state": State.RAN, "source": command.source}
    bench = Bench(engine, limits=InboxLimits(lock=0.1, answer_within=30))
    async with engine.connect() as another:
        await another.execute(insert(inbox).values(received_at=START, **row))
        async with asyncio.timeout(10):
            assert (await bench.receive_one(command)).outcome is Outcome.ONGOING
    assert (await bench.receive_one(command)).outcome is Outcome.DONE


@pytest.mark.databases("postgresql")
async def test_a_handler_whose_statement_takes_too_long_is_failed(
    engine: AsyncEngine, names: Names
) -> None:
    # What the server itself ends comes much later.
    quick = replace(PATIENT, handler=0.2)
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await session.execute(text("SELECT pg_sleep(20)"))

    reply = await Bench(engine, handlers, limits=quick).receive_one(envelope(names(), Noted("a")))
    assert reply.outcome is Outcome.FAILED
    assert "not done within 0.2 s" in (reply.reason or "")


@pytest.mark.databases("postgresql")
async def test_a_deferred_constraint_that_fails_at_the_commit_is_its_messages_own(
    engine: AsyncEngine, names: Names
) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "ALTER TABLE ledger ADD CONSTRAINT once UNIQUE (entry)"
                " DEFERRABLE INITIALLY DEFERRED"
            )
        )
    bench = Bench(engine)
    batch = [envelope(names(), Noted("a", entry)) for entry in ("1", "1", "2")]
    replies = await bench.receive(*batch)
    assert [reply.outcome for reply in replies] == [
        Outcome.DONE,
        Outcome.FAILED,
        Outcome.NOT_ATTEMPTED,
    ]
    assert "once" in (replies[1].reason or "")


@pytest.mark.databases("postgresql")
async def test_transactions_that_cross_each_other_are_tried_again_at_once(
    engine: AsyncEngine, names: Names
) -> None:
    handlers = Handlers("bank")
    failures = 3

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        nonlocal failures
        await write_entry(session, note.entry, context.id)
        if failures:
            failures -= 1
            await session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))

    bench = Bench(engine, handlers)
    note = envelope(names(), Noted("a", "news"))
    assert await bench.receive_one(note) == DONE
    assert failures == 0
    failures = 100
    reply = await bench.receive_one(envelope(names(), Noted("a")))
    assert reply.outcome is Outcome.TOO_BUSY, "in the end, and no attempt of the message is used up"
    assert await bench.entries() == ["news"]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_sessions_that_look_at_the_past_are_refused(
    database: Database, make_engine: MakeEngine, names: Names, level: str
) -> None:
    bench = Bench(make_engine(database, isolation_level=level))
    message = envelope(names(), Noted("a"))
    with pytest.raises(IsolationRefused, match=f"sessions are {level}"):
        await bench.receive(message)
    await Bench(make_engine(database)).receive(message)
    with pytest.raises(IsolationRefused, match=f"sessions are {level}"):
        await bench.receive(message)  # of which the inbox has all ids


async def test_sessions_in_which_each_statement_commits_by_itself_are_refused(
    engine: AsyncEngine, names: Names
) -> None:
    """What a handler wrote would stay when it fails, and its message would count as handled."""
    plain = Bench(engine)
    bench = Bench(engine.execution_options(isolation_level="AUTOCOMMIT"))
    with pytest.raises(AutocommitRefused, match="the inbox works on an AUTOCOMMIT connection"):
        await bench.receive(envelope(names(), Noted("a")))
    assert await plain.states() == {}


async def test_an_unconfigured_sqlite_engine_is_refused_at_construction(tmp_path: Any) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/plain.db")
    with pytest.raises(UnconfiguredSQLite):
        Bench(engine)
    await engine.dispose()
