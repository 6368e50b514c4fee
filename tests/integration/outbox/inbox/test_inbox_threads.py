"""Handlers that are plain functions, on a synchronous database: each transaction in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, event, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.database.cutting import can_be_cut
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions.in_threads import HANDLER_THREADS, InThreads, _Job
from outbox.inbox.transactions.terms import HandlerLate
from outbox.replies import Outcome, Refused, Reply
from outbox.tables import inbox as inbox_table
from outbox.tables import outbox as outbox_table
from outbox.testing import FakeClock
from outbox.wire.envelope import Envelope
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
from tests.support.processes.waiting import until

DONE = Reply(Outcome.DONE, value={"balance": 1})


@pytest.fixture
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


class PlainBank:
    """A bank on a synchronous database. The entry "slow" waits, in its thread, until `go_on`."""

    def __init__(self, engine: Engine, limits: InboxLimits | None = None) -> None:
        self.calls: list[str] = []
        self.threads: set[str] = set()
        self.began, self.go_on = threading.Event(), threading.Event()
        self.errors: list[Exception] = []
        self.over = threading.Event()
        """A slow handler has gone on to its end."""
        self.sessions = sessionmaker(engine)
        outbox.install(self.sessions, source="bank", routes={Noted: ["press"]})
        self.handlers = Handlers("bank")
        self.handlers.on(Book)(self._book)
        self.handlers.on(Unbook)(self._unbook)
        self.handlers.on_list(Listed)(self._listed)
        self.inbox = Inbox(self.handlers, self.sessions, clock=FakeClock(START), limits=limits)

    @property
    def runner(self) -> InThreads:
        runner = self.inbox._runner
        assert isinstance(runner, InThreads)
        return runner

    def _book(self, session: Session, command: Book, context: Context) -> Any:
        self.calls.append(command.entry)
        self.threads.add(threading.current_thread().name)
        session.execute(insert(ledger).values(entry=command.entry, by=context.id))
        if command.entry == "refused":
            return Refused("no", "no")
        if command.entry == "bad":
            raise ValueError("bad")
        if command.entry == "slow":
            self._dawdle(session, context)
        outbox.add(session, Noted(command.account))
        return Booked(balance=1)

    def _dawdle(self, session: Session, context: Context) -> None:
        self.began.set()
        self.go_on.wait(30)
        for _ in range(2):
            try:
                session.execute(insert(ledger).values(entry="too late", by=context.id))
                session.commit()
            except Exception as error:
                self.errors.append(error)
                session.rollback()
        self.over.set()

    def _unbook(self, session: Session, command: Unbook, context: Context) -> None:
        session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))

    def _listed(self, session: Session, events: Any, contexts: Any) -> list[None]:
        for each, context in zip(events, contexts, strict=True):
            session.execute(insert(ledger).values(entry=each.entry, by=context.id))
        return [None] * len(events)

    async def receive(self, *envelopes: Envelope) -> list[Reply]:
        return await self.inbox.receive(envelopes)

    def _rows(self, statement: Any) -> list[Any]:
        with self.sessions() as session:
            return list(session.scalars(statement))

    @property
    def entries(self) -> list[str]:
        return self._rows(select(ledger.c.entry).order_by(ledger.c.number))

    @property
    def known(self) -> list[str]:
        return self._rows(select(inbox_table.c.id))

    @property
    def sent(self) -> int:
        return len(self._rows(select(outbox_table.c.seq)))


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


async def test_a_handler_over_its_limit_writes_nothing_more_and_holds_nothing(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine, InboxLimits(handler=0.3))
    command = envelope(names(), Book("a", "slow"))
    (reply,) = await bank.receive(command)
    assert reply.outcome is Outcome.FAILED
    assert "_book was not done within 0.3 s" in (reply.reason or "")
    assert bank.runner.given_up == 1
    # Its thread is still inside, and neither its row nor the write lock is held any more.
    assert outcomes(await bank.receive(envelope(names(), Book("b", "1")))) == ["done"]
    assert not bank.over.is_set()
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert bank.over.is_set()
    assert len(bank.errors) == 2, "each of its statements fails, also in a transaction of its own"
    assert bank.entries == ["1"]
    assert command.id not in bank.known
    assert outcomes(await bank.receive(envelope(names(), Book("c", "2")))) == ["done"]


async def test_of_what_comes_after_a_handler_that_was_given_up_no_failure_is_logged(
    sync_engine: Engine, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    bank = PlainBank(sync_engine, InboxLimits(handler=0.3))
    bank.inbox._processor._fragile["bank.book.v1"] = 10
    batch = [envelope(names(), Book(entry, entry)) for entry in ("slow", "1", "2")]
    assert outcomes(await bank.receive(*batch)) == ["failed", "done", "done"]
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    told = [record.message for record in caplog.records if "failed at" in record.message]
    assert told == [f"bank failed at bank.book.v1 {batch[0].id}"]


async def test_a_handler_that_was_given_up_takes_no_lock_when_it_tries_again(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine, InboxLimits(handler=0.3))
    tried, end = threading.Event(), threading.Event()

    @bank.handlers.on(Noted)
    def noted(session: Session, event: Noted, context: Context) -> None:
        bank.go_on.wait(30)
        with contextlib.suppress(Exception):
            session.rollback()
        for _ in range(2):
            try:
                session.execute(insert(ledger).values(entry="too late", by=context.id))
            except Exception as error:
                bank.errors.append(error)
        tried.set()
        end.wait(30)

    assert outcomes(await bank.receive(envelope(names(), Noted("a")))) == ["failed"]
    bank.go_on.set()
    await until(tried.is_set, what="it tries again")
    try:
        assert len(bank.errors) == 2
        assert outcomes(await bank.receive(envelope(names(), Book("b", "1")))) == ["done"]
    finally:
        end.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert bank.entries == ["1"]


async def test_a_handler_that_is_late_in_a_statement_is_ended_there(
    sync_engine: Engine, names: Names
) -> None:
    endless = (
        "SELECT pg_sleep(30)"
        if sync_engine.dialect.name == "postgresql"
        else "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    )
    bank = PlainBank(sync_engine, InboxLimits(handler=0.3))

    @bank.handlers.on(Noted)
    def noted(session: Session, event: Noted, context: Context) -> None:
        session.connection().exec_driver_sql(endless)

    began = time.monotonic()
    assert outcomes(await bank.receive(envelope(names(), Noted("a")))) == ["failed"]
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert time.monotonic() - began < 20
    assert bank.entries == []


async def test_what_has_begun_to_commit_is_not_given_up(sync_engine: Engine, names: Names) -> None:
    bank = PlainBank(sync_engine)
    committing, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        committing.set()
        go_on.wait(30)

    event.listen(sync_engine, "commit", hold)
    receiving = asyncio.create_task(bank.receive(envelope(names(), Book("a", "1"))))
    await until(committing.is_set, what="the commit begins")
    receiving.cancel()
    await asyncio.wait([receiving])
    assert bank.runner.given_up == 0
    go_on.set()
    await until(lambda: bank.entries == ["1"], what="it commits")
    event.remove(sync_engine, "commit", hold)


async def test_a_delivery_that_is_cancelled_gives_its_thread_up(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine)
    command = envelope(names(), Book("a", "slow"))
    receiving = asyncio.create_task(bank.receive(command))
    await until(bank.began.is_set, what="the handler is inside")
    receiving.cancel()
    await asyncio.wait([receiving])
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert bank.entries == []
    assert bank.known == []


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


async def test_threads_that_were_given_up_take_up_their_places(
    sync_engine: Engine, names: Names
) -> None:
    bank = PlainBank(sync_engine, InboxLimits(handler=0.2, answer_within=2.0))
    bank.runner.most = 1
    await bank.receive(envelope(names(), Book("a", "slow")))
    other = envelope(names(), Book("b", "1"))
    with pytest.raises(TimeoutError):
        await bank.receive(other)
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert await bank.receive(other) == [DONE]


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


def test_a_job_is_committed_or_given_up_and_never_both(sync_engine: Engine) -> None:
    job: Any = _Job(None, None)  # type: ignore[arg-type]  # only its phase is looked at
    assert job.give_up()
    with pytest.raises(RuntimeError, match="longer than it may"):
        job._go_on()
    assert not job.give_up()


def test_a_handler_that_ended_after_the_look_at_it_is_not_given_up() -> None:
    """Else the next one would be, and the message of that one would be the one that failed."""
    job: Any = _Job(None, None)  # type: ignore[arg-type]  # only its handler is looked at
    late, next_one = HandlerLate("late", 1.0), HandlerLate("next", 1.0)
    job._running = 0.0, late
    assert job.late() is late
    for running in (None, (0.0, next_one)):
        job._running = running
        assert not job.give_up(late)
    assert job.give_up(next_one)


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
