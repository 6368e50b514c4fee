"""Handlers that are plain functions, on a synchronous database: each transaction in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from outbox.database.cutting import can_be_cut
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions.in_threads import HANDLER_THREADS
from outbox.replies import Outcome
from outbox.testing import FakeClock
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.inboxes import (
    START,
    Book,
    Booked,
    Listed,
    Names,
    Noted,
    Unbook,
    envelope,
    ledger,
    outcomes,
)
from tests.support.outbox.plain_banks import DONE, PlainBank
from tests.support.processes.waiting import until


@pytest.fixture
def plain(sync_engine: Engine) -> Iterator[PlainBank]:
    bank = PlainBank(sync_engine)
    yield bank
    bank.go_on.set()


async def test_plain_handlers_keep_all_that_is_promised(plain: PlainBank, names: Names) -> None:
    book, undo = envelope(names(), Book("a", "1")), names()
    batch = [book, envelope(names(), Book("b", "refused")), envelope(names(), Listed("c", "2"))]
    assert outcomes(await plain.receive(*batch)) == ["done", "refused", "done"]
    assert outcomes(await plain.receive(*batch)) == ["done", "refused", "done"]
    assert plain.entries == ["1", "2"]
    assert plain.sent == 1
    bad = envelope(names(), Book("d", "bad"))
    behind = envelope(names(), Book("d", "3"))
    assert outcomes(await plain.receive(bad, behind)) == ["failed", "not-attempted"]
    assert plain.entries == ["1", "2"]
    undone = await plain.receive(envelope(undo, Unbook("a"), undoes=(book.id,)))
    assert outcomes(undone) == ["done"]
    assert plain.entries == ["2"]
    assert outcomes(await plain.receive(book)) == ["already-undone"]
    assert "MainThread" not in plain.threads


async def test_the_loop_goes_on_while_plain_handlers_block(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine)
    receiving = asyncio.create_task(bank.receive(envelope(names(), Book("a", "slow"))))
    await until(bank.began.is_set, what="the handler is inside")
    assert not receiving.done()
    bank.go_on.set()
    assert outcomes(await receiving) == ["failed"], "it commits, which no handler may"
    assert bank.entries == []


async def test_a_pool_without_a_free_connection_is_the_databases_trouble(
    make_sync_engine: MakeSyncEngine, database: Database, names: Names
) -> None:
    """Else the sender would be told that a handler goes on, where none has begun."""
    engine = make_sync_engine(database, pool_size=1, max_overflow=0, pool_timeout=20)
    bank = PlainBank(engine, InboxLimits(transaction=0.1, answer_within=0.5))
    with engine.connect(), pytest.raises(TimeoutError, match="no connection was free within"):
        await bank.receive(envelope(names(), Book("a", "1")))
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert bank.known == []


def test_an_inbox_may_work_in_one_event_loop_after_another(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine)

    async def many() -> None:
        commands = [envelope(names(), Book(str(number))) for number in range(20)]
        await asyncio.gather(*(bank.receive(each) for each in commands))

    for _ in range(2):
        asyncio.run(many())
    assert len(bank.entries) == 40


async def test_a_thread_that_cannot_be_started_takes_no_place(
    plain: PlainBank, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    command = envelope(names(), Book("a", "1"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(HANDLER_THREADS):
            with pytest.raises(RuntimeError, match="can't start"):
                await plain.receive(command)
    assert await plain.receive(command) == [DONE]


async def test_a_transaction_in_a_thread_ends_where_a_next_finds_nothing(
    sync_engine: Engine, names: Names
) -> None:
    def search(session: Session, command: Book, context: Context) -> Booked:
        return next(iter([]))

    def look(session: Session) -> int:
        return next(iter([]))

    handlers = Handlers("bank")
    handlers.on(Book)(search)
    inbox = Inbox(handlers, sessionmaker(sync_engine), clock=FakeClock(START))
    (reply,) = await inbox.receive([envelope(names(), Book("a", "1"))])
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "StopIteration: ")
    assert inbox.threads is not None
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(inbox.threads.run(look), 10)


async def test_a_coroutine_function_is_refused_on_a_synchronous_database(
    sync_engine: Engine,
) -> None:
    async def book(session: Any, command: Book, context: Context) -> Booked:
        raise AssertionError

    handlers = Handlers("bank")
    handlers.on(Book)(book)
    with pytest.raises(InvalidHandlers, match=r"is async, and the database is synchronous"):
        Inbox(handlers, sessionmaker(sync_engine), clock=FakeClock(START))


def test_a_driver_whose_transactions_cannot_be_ended_from_outside_is_refused() -> None:
    engine = create_engine("postgresql+psycopg://somewhere/db")
    assert can_be_cut(engine.dialect)
    engine.dialect.driver = "another"
    with pytest.raises(InvalidHandlers, match="the driver another gives no way"):
        Inbox(Handlers("bank"), sessionmaker(engine), clock=FakeClock(START))


async def test_a_purge_works_on_a_synchronous_database(plain: PlainBank, names: Names) -> None:
    await plain.receive(envelope(names(), Book("a", "1")))
    plain.inbox._clock.advance(40 * 86400)  # type: ignore[attr-defined]  # it is a FakeClock
    assert await plain.inbox.purge() == 1
    assert plain.known == []


async def test_messages_that_come_at_once_are_handled_by_so_many_threads(
    sync_engine: Engine, names: Names
) -> None:
    inside, most = [0], [0]
    lock = threading.Lock()
    bank = PlainBank(sync_engine)

    @bank.handlers.on(Noted)
    def noted(session: Session, event: Noted, context: Context) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        session.execute(insert(ledger).values(entry=event.account, by=context.id))
        with lock:
            inside[0] -= 1

    notes = [envelope(names(), Noted(str(number))) for number in range(30)]
    replies = await asyncio.gather(*(bank.receive(each) for each in notes))
    assert {reply.outcome for (reply,) in replies} == {Outcome.DONE}
    assert most[0] <= HANDLER_THREADS
    assert len(bank.entries) == 30


async def test_a_synchronous_and_an_asynchronous_process_share_one_database(
    engine: AsyncEngine, sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine)
    command = envelope(names(), Book("a", "1"))
    assert await bank.receive(command) == [DONE]
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: Any, command: Book, context: Context) -> Booked:
        raise AssertionError

    other = Inbox(handlers, async_sessionmaker(engine), clock=FakeClock(START))
    assert await other.receive([command]) == [DONE]
