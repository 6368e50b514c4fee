"""Plain handlers that take too long: their transactions are ended, and their threads go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context
from outbox.inbox.limits import InboxLimits
from outbox.inbox.transactions import in_threads
from outbox.inbox.transactions.in_threads import _Job
from outbox.inbox.transactions.terms import HandlerLate
from outbox.replies import Outcome
from tests.support.outbox.inboxes import (
    PATIENT,
    Book,
    Names,
    Noted,
    envelope,
    ledger,
    outcomes,
)
from tests.support.outbox.plain_banks import DONE, PlainBank
from tests.support.processes.waiting import until


@pytest.fixture
def bank(sync_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> PlainBank:
    """A bank whose slow handler takes too long as soon as it waits, and no other handler does,
    however busy the machine is."""
    bank = PlainBank(sync_engine, replace(PATIENT, handler=0.3))
    hour = SimpleNamespace(monotonic=lambda: 3600.0 if bank.began.is_set() else 0.0)
    monkeypatch.setattr(in_threads, "time", hour)
    return bank


async def test_a_handler_over_its_limit_writes_nothing_more_and_holds_nothing(
    bank: PlainBank, names: Names
) -> None:
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
    bank: PlainBank, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    bank.inbox._processor._fragile["bank.book.v1"] = 10
    batch = [envelope(names(), Book(entry, entry)) for entry in ("slow", "1", "2")]
    assert outcomes(await bank.receive(*batch)) == ["failed", "done", "done"]
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    told = [record.message for record in caplog.records if "failed at" in record.message]
    assert told == [f"bank failed at bank.book.v1 {batch[0].id}"]


async def test_a_handler_that_was_given_up_takes_no_lock_when_it_tries_again(
    bank: PlainBank, names: Names
) -> None:
    tried, end = threading.Event(), threading.Event()

    @bank.handlers.on(Noted)
    def noted(session: Session, event: Noted, context: Context) -> None:
        bank.began.set()
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
    bank = PlainBank(sync_engine, replace(PATIENT, handler=0.3))

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


async def test_threads_that_were_given_up_take_up_their_places(
    bank: PlainBank, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.runner.most = 1
    await bank.receive(envelope(names(), Book("a", "slow")))
    other = envelope(names(), Book("b", "1"))
    with monkeypatch.context() as patched, pytest.raises(TimeoutError):
        limits = InboxLimits(transaction=0.1, answer_within=0.2)
        patched.setattr(bank.inbox._processor, "_limits", limits)
        await bank.receive(other)
    bank.go_on.set()
    await until(lambda: bank.runner.given_up == 0, what="the thread ends")
    assert await bank.receive(other) == [DONE]


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
