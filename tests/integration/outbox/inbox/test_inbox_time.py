"""How long handlers may take: within a batch, beyond a delivery, and at their limit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from outbox import sqlite
from outbox.errors import InvalidHandlers
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.limits import InboxLimits
from outbox.replies import Outcome, Refused, Reply
from tests.support.outbox.inboxes import (
    PATIENT,
    Bench,
    Book,
    Booked,
    Names,
    Noted,
    altered,
    bank,
    envelope,
    handling,
    outcomes,
    write_entry,
)
from tests.support.processes.waiting import until

DONE = Reply(Outcome.DONE, value={"balance": 1})


class Slow:
    """A bank whose handler for the entry "slow" waits until it is told to go on."""

    def __init__(self, engine: AsyncEngine, answer: Any = None, **options: Any) -> None:
        """`options` are those of the `Bench`."""
        self.calls: list[str] = []
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        handlers = bank(without=Book)

        @handlers.on(Book)
        async def book(session: AsyncSession, command: Book, context: Context) -> Any:
            self.calls.append(command.entry)
            await write_entry(session, command.entry, context.id)
            if command.entry.startswith("slow"):
                self.began.set()
                await self.go_on.wait()
                if isinstance(answer, Exception):
                    raise answer
                return answer or Booked(balance=1)
            return Booked(balance=1)

        self.bench = Bench(engine, handlers, **options)

    async def ended(self) -> None:
        """Wait until nothing goes on any more."""
        self.go_on.set()
        await until(lambda: not self.bench.inbox._going_on, what="the transaction ends")


# --- Beyond a delivery ----------------------------------------------------------------------------


async def test_a_handler_may_outlast_its_delivery_and_is_called_once(
    engine: AsyncEngine, names: Names
) -> None:
    slow = Slow(engine)
    command = envelope(names(), Book("a", "slow"))
    for _ in range(2):
        assert outcomes(await slow.bench.outlasted(command)) == ["ongoing"]
    await slow.ended()
    assert await slow.bench.receive_one(command) == DONE
    assert slow.calls == ["slow"]
    assert await slow.bench.entries() == ["slow"]


@pytest.mark.parametrize(
    ("answer", "outcome"), [(ValueError("no"), "failed"), (Refused("empty", "no"), "refused")]
)
async def test_what_a_handler_says_after_its_delivery_is_told_to_the_next_copy(
    engine: AsyncEngine, names: Names, answer: Any, outcome: str
) -> None:
    """Else a message that always fails slowly would be asked for ever, and buried never."""
    slow = Slow(engine, answer)
    command = envelope(names(), Book("a", "slow"))
    # Its type is handled with care from then on, which a batch with one that fails would do too.
    slow.bench.inbox._processor._fragile["bank.book.v1"] = 10
    assert outcomes(await slow.bench.outlasted(command)) == ["ongoing"]
    await slow.ended()
    assert outcomes([await slow.bench.receive_one(command)]) == [outcome]
    assert slow.calls == ["slow"]
    assert await slow.bench.entries() == []
    if outcome == "failed":
        await slow.bench.receive_one(command)
        assert slow.calls == ["slow"] * 2, "it is told once, and then tried again"


async def test_a_late_failure_is_told_only_where_it_is_the_answer(
    engine: AsyncEngine, names: Names
) -> None:
    """Not to another message under its id, and not in vain behind one of its key that waits."""
    slow = Slow(engine, ValueError("no"))
    slow.bench.inbox._processor._fragile["bank.book.v1"] = 10
    command = envelope(names(), Book("a", "slow"))
    await slow.bench.outlasted(command)
    await slow.ended()
    unknown = replace(envelope(names(), Noted("a")), type="bank.unheard-of.v1")
    assert outcomes(await slow.bench.receive(unknown, command)) == ["rejected", "not-attempted"]
    other = altered(command, Book("a", "another"))
    assert outcomes([await slow.bench.receive_one(other)]) == ["done"]
    assert slow.calls == ["slow", "another"]


async def test_what_was_not_begun_when_the_delivery_ends_is_not_attempted(
    engine: AsyncEngine, names: Names
) -> None:
    slow = Slow(engine)
    slow.bench.inbox._processor._took["bank.book.v1"] = 3600.0  # each gets a transaction of its own
    batch = [envelope(names(), Book(key, entry)) for key, entry in (("a", "slow"), ("b", "2"))]
    batch.append(envelope(names(), Noted("a", "3")))
    assert outcomes(await slow.bench.outlasted(*batch)) == [
        "ongoing",
        "not-attempted",
        "not-attempted",
    ]
    await slow.ended()
    assert await slow.bench.entries() == ["slow"]
    assert outcomes(await slow.bench.receive(*batch)) == ["done"] * 3
    assert slow.calls == ["slow", "2"]


@pytest.mark.databases("postgresql")
async def test_another_process_finds_that_a_command_is_in_hand(
    engine: AsyncEngine, names: Names
) -> None:
    slow, other = Slow(engine), Slow(engine, limits=replace(PATIENT, lock=0.1))
    command = envelope(names(), Book("a", "slow"))
    await slow.bench.outlasted(command)
    assert (await other.bench.receive_one(command)).outcome is Outcome.ONGOING
    await slow.ended()
    assert await other.bench.receive_one(command) == DONE
    assert other.calls == []


@pytest.mark.databases("postgresql")
async def test_only_so_many_handlers_may_go_on_beyond_their_deliveries(
    engine: AsyncEngine, names: Names
) -> None:
    slow = Slow(engine)
    batches = [envelope(names(), Book(str(number), "slow")) for number in range(8)]
    replies = await asyncio.gather(*map(slow.bench.outlasted, batches))
    assert [outcomes(each) for each in replies] == [["ongoing"]] * 8
    more = envelope(names(), Book("more"))
    assert outcomes([await slow.bench.receive_one(more)]) == ["too-busy"]
    await slow.ended()
    assert await slow.bench.receive_one(more) == DONE


async def test_a_service_that_stops_waits_for_what_goes_on_and_then_ends_it(
    engine: AsyncEngine, names: Names
) -> None:
    slow = Slow(engine)
    command = envelope(names(), Book("a", "slow"))
    await slow.bench.outlasted(command)
    draining = asyncio.create_task(slow.bench.inbox.drain(30.0))
    await asyncio.sleep(0)
    assert not draining.done()
    slow.go_on.set()
    await draining
    assert await slow.bench.receive_one(command) == DONE

    slow.go_on.clear()
    later = envelope(names(), Book("a", "slow later"))
    await slow.bench.outlasted(later)
    await slow.bench.inbox.drain(0.01)
    assert await slow.bench.entries() == ["slow"]


# --- Within a batch -------------------------------------------------------------------------------


async def test_a_batch_that_takes_long_is_committed_in_parts_and_each_is_called_once(
    engine: AsyncEngine, names: Names
) -> None:
    calls: list[str] = []
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        calls.append(command.entry)
        clock.advance(0.06)
        await write_entry(session, command.entry, context.id)
        return Booked(balance=1)

    limits = InboxLimits(transaction=0.1, answer_within=100.0)
    bench = Bench(engine, handlers, limits=limits)
    clock = bench.clock
    batch = [envelope(names(), Book(str(number), str(number))) for number in range(7)]
    assert await bench.receive(*batch) == [DONE] * 7
    assert calls == [str(number) for number in range(7)]
    assert await bench.entries() == calls


async def test_what_a_transaction_has_no_time_for_leaves_no_trace_in_it(
    engine: AsyncEngine, names: Names
) -> None:
    """A row that stayed would be taken for one that ran."""
    handlers = bank(without=Book)

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        bench.clock.advance(1000)
        return Booked(balance=1)

    bench = Bench(engine, handlers)
    batch = [envelope(names(), Book(entry, entry)) for entry in ("1", "2")]
    assert outcomes(await bench.receive(*batch)) == ["done", "not-attempted"]
    assert set(await bench.states()) == {batch[0].id}
    assert outcomes(await bench.receive(batch[1])) == ["done"]
    assert await bench.entries() == ["1", "2"]


async def test_after_one_that_was_refused_or_failed_the_others_are_not_called_again(
    engine: AsyncEngine, names: Names
) -> None:
    calls: list[str] = []

    def answer(command: Book, _: Context) -> Any:
        calls.append(command.entry)
        if command.entry == "bad":
            raise ValueError("bad")
        return Refused("no", "no") if command.entry == "refused" else None

    bench = Bench(engine, handling(answer))
    entries = ["1", "refused", "2", "bad", "3"]
    # They are called in the order of their accounts.
    books = [Book(account, entry) for account, entry in zip("abcde", entries, strict=True)]
    first = [envelope(names(), book) for book in books]
    second = [envelope(names(), book) for book in books]
    expected = ["done", "refused", "done", "failed", "done"]
    assert outcomes(await bench.receive(*first)) == expected
    assert calls == ["1", "refused", *entries], "the first time, some are"
    calls.clear()
    assert outcomes(await bench.receive(*second)) == expected
    assert calls == entries
    assert await bench.entries() == ["1", "2", "3"] * 2


async def test_of_a_key_that_fails_with_care_nothing_later_is_called(
    engine: AsyncEngine, names: Names
) -> None:
    def answer(command: Book, _: Context) -> None:
        if command.entry == "bad":
            raise ValueError("bad")

    bench = Bench(engine, handling(answer))
    bench.inbox._processor._fragile["bank.book.v1"] = 10
    batch = [envelope(names(), Book("a", entry)) for entry in ("1", "bad", "2")]
    assert outcomes(await bench.receive(*batch)) == ["done", "failed", "not-attempted"]
    assert await bench.entries() == ["1"]
    assert set(await bench.states()) == {batch[0].id}


# --- At the limit ---------------------------------------------------------------------------------


async def test_each_handler_has_a_limit_of_its_own(engine: AsyncEngine, names: Names) -> None:
    handlers = bank(without=Book)

    @handlers.on(Book, timeout=0.2)
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await write_entry(session, command.entry, context.id)
        await asyncio.Event().wait()
        return Booked(balance=1)

    bench = Bench(engine, handlers)
    replies = await bench.receive(envelope(names(), Book("a")), envelope(names(), Noted("b")))
    assert outcomes(replies) == ["failed", "done"]
    assert "book was not done within 0.2 s; a longer timeout=..." in (replies[0].reason or "")


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(seconds: float) -> None:
    handlers = Handlers("bank")
    with pytest.raises(InvalidHandlers, match=r"the timeout of .*book is"):

        @handlers.on(Book, timeout=seconds)
        async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
            raise AssertionError


@pytest.mark.databases("sqlite")
async def test_on_sqlite_a_limit_above_the_patience_of_its_writers_is_refused(
    engine: AsyncEngine,
) -> None:
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        raise AssertionError

    handlers = Handlers("bank")
    handlers.on(Book, timeout=4.6)(book)
    with pytest.raises(InvalidHandlers, match=r"timeout of .*book is 4.6 s.*may take 4.5 s"):
        Bench(engine, handlers)
    later = Handlers("bank")
    bench = Bench(engine, later)
    with pytest.raises(InvalidHandlers, match=r"busy_timeout=\.\.\."):
        later.on(Book, timeout=4.6)(book)
    with pytest.raises(InvalidHandlers, match=r"InboxLimits.handler is 30 s"):
        Bench(engine, limits=InboxLimits(handler=30))
    assert bench.inbox.longest_handler == 4.5
    assert sqlite.busy_timeout(engine) == 5.0


@pytest.mark.databases("postgresql")
async def test_the_bounds_of_an_engine_are_raised_to_what_its_handlers_may_take(
    engine: AsyncEngine, names: Names
) -> None:
    def impatient(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for bound in ("statement_timeout", "idle_in_transaction_session_timeout"):
            cursor.execute(f"SET {bound} = '200ms'")
        cursor.execute("SELECT current_setting('transaction_timeout', true)")
        if cursor.fetchone()[0] is not None:
            cursor.execute("SET transaction_timeout = '200ms'")
        cursor.close()

    event.listen(engine.sync_engine, "connect", impatient)
    await engine.dispose()
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await session.execute(text("SELECT pg_sleep(0.3)"))
        await asyncio.sleep(0.3)  # each is longer than the bounds of the engine
        return Booked(balance=1)

    assert await Bench(engine, handlers).receive_one(envelope(names(), Book("a"))) == DONE


async def test_a_plain_function_is_refused_where_it_would_hold_up_the_loop(
    engine: AsyncEngine,
) -> None:
    def book(session: Any, command: Book, context: Context) -> Booked:
        raise AssertionError

    handlers = Handlers("bank")
    handlers.on(Book)(book)
    with pytest.raises(InvalidHandlers, match=r"plain function.*write async def"):
        Bench(engine, handlers)
    Bench(engine, later := Handlers("bank"))
    with pytest.raises(InvalidHandlers, match=r"plain function.*run in threads"):
        later.on(Book)(book)
