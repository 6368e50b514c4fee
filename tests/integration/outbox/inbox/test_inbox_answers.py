"""What the inbox answers, and what it keeps of what it answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.rows import State
from outbox.replies import Locked, Ongoing, Outcome, Refused, Reply
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Booked,
    Entry,
    Listed,
    Names,
    Noted,
    Unbook,
    bank,
    envelope,
    handling,
    ledger,
    outcomes,
    plainly,
)

DONE = Reply(Outcome.DONE)


async def test_a_batch_is_answered_in_its_order(bench: Bench, names: Names) -> None:
    replies = await bench.receive(
        envelope(names(), Noted("a", "1")),
        envelope(names(), Book("b", "2")),
        envelope(names(), Listed("c", "3")),
        envelope(names(), Noted("a", "4")),
    )
    assert replies == [DONE, Reply(Outcome.DONE, value={"balance": 1}), DONE, DONE]
    assert sorted(await bench.entries()) == ["1", "2", "3", "4"]


async def test_an_empty_batch_has_no_answers(bench: Bench) -> None:
    assert await bench.receive() == []


async def test_a_refusal_takes_the_writes_back_and_is_stored(
    engine: AsyncEngine, names: Names
) -> None:
    bench = Bench(engine, handling(lambda command, _: Refused("held", "there is a hold")))
    command, other = envelope(names(), Book("a")), envelope(names(), Noted("b", "news"))
    refused = Reply(Outcome.REFUSED, code="held", reason="there is a hold")
    assert await bench.receive(command, other) == [refused, DONE]
    assert await bench.entries() == ["news"]
    assert (await bench.states())[command.id] is State.REFUSED
    assert await bench.receive_one(command) == refused, "stored, not asked again"


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (Locked("saga 7"), Reply(Outcome.LOCKED, code="locked", reason="saga 7")),
        (Ongoing(2), Reply(Outcome.ONGOING, code="ongoing", retry_after=2.0)),
    ],
)
async def test_an_answer_that_is_not_final_leaves_no_row(
    engine: AsyncEngine, names: Names, result: object, reply: Reply
) -> None:
    results: list[object] = [result] * 2
    bench = Bench(engine, handling(lambda *_: results.pop() if results else None))
    command = envelope(names(), Book("a", "salary"))
    assert await bench.receive_one(command) == reply
    assert await bench.states() == {}
    assert await bench.entries() == []
    assert await bench.receive_one(command) == DONE
    assert await bench.entries() == ["salary"]


async def test_an_unexpected_error_is_failed_and_never_a_refusal(
    engine: AsyncEngine, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing " + "x" * 1000)

    bench = Bench(engine, handling(fail))
    command = envelope(names(), Book("a"))
    with caplog.at_level(logging.ERROR):
        reply = await bench.receive_one(command)
    assert reply.outcome is Outcome.FAILED
    assert (reply.reason or "").startswith("ValueError: no such thing xxx")
    assert len(reply.reason or "") == 500
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is not None
    assert "in fail" in logging.Formatter().formatException(record.exc_info)
    assert await bench.states() == {}
    assert await bench.entries() == []


async def test_an_error_in_a_batch_is_logged_without_the_rollback_before_it(
    engine: AsyncEngine, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    bench = Bench(engine, handling(fail))
    with caplog.at_level(logging.ERROR):
        replies = await bench.receive(*(envelope(names(), Book(key)) for key in "ab"))
    assert outcomes(replies) == [Outcome.FAILED] * 2
    told = [logging.Formatter().format(record) for record in caplog.records]
    assert [text.count("Traceback") for text in told] == [1, 1]


async def test_a_database_error_of_a_handler_does_not_show_its_values(
    engine: AsyncEngine, names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await session.execute(insert(ledger).values(entry=None, by="a secret"))

    reply = await Bench(engine, handlers).receive_one(envelope(names(), Noted("a")))
    assert reply.outcome is Outcome.FAILED
    assert "INSERT" not in (reply.reason or "")


async def test_an_error_at_the_flush_is_its_handlers_own(engine: AsyncEngine, names: Names) -> None:
    handlers = Handlers("bank")

    @handlers.on(Noted)
    @plainly
    def noted(session: Session, note: Noted, context: Context) -> None:
        session.add(Entry(None if note.entry == "bad" else note.entry, context.id))  # type: ignore[arg-type]  # the mistake

    bench = Bench(engine, handlers)
    replies = await bench.receive(
        *(envelope(names(), Noted(entry, entry)) for entry in ("one", "bad", "two"))
    )
    assert outcomes(replies) == ["done", "failed", "done"]
    assert await bench.entries() == ["one", "two"]


async def test_a_value_that_cannot_travel_is_failed_and_changes_nothing(
    engine: AsyncEngine, names: Names
) -> None:
    bench = Bench(engine, handling(lambda *_: object()))
    assert (await bench.receive_one(envelope(names(), Book("a")))).outcome is Outcome.FAILED
    assert await bench.entries() == []


async def test_an_unknown_type_is_rejected_and_names_the_known_versions(
    bench: Bench, names: Names
) -> None:
    unknown = envelope(names(), Book("a"), type="bank.book.v2")
    reply = await bench.receive_one(unknown)
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "unknown-type")
    assert reply.reason == "bank has no handler for bank.book.v2; it knows bank.book.v1"


@pytest.mark.parametrize("data", [b"{}", b'{"account":7}', b'{"account":"a","entry":"\\u0000"}'])
async def test_one_bad_message_is_rejected_and_the_others_run(
    bench: Bench, names: Names, data: bytes
) -> None:
    bad = envelope(names(), Book("a"), data=data)
    good = envelope(names(), Noted("a", "news"))
    replies = await bench.receive(bad, good)
    assert [reply.code for reply in replies] == ["invalid", None]
    assert await bench.entries() == ["news"]
    assert bad.id not in await bench.states()


async def test_an_event_cannot_undo_nor_a_command_itself(bench: Bench, names: Names) -> None:
    id = names()
    replies = await bench.receive(
        envelope(names(), Noted("a"), undoes=(names(),)),
        envelope(id, Unbook("a"), undoes=(id,)),
        envelope(names(), Unbook("a"), undoes=tuple(names() for _ in range(501))),
    )
    assert [reply.code for reply in replies] == ["invalid"] * 3
    assert await bench.states() == {}


async def test_an_expired_command_is_barred_before_it_is_answered(
    bench: Bench, names: Names
) -> None:
    command = envelope(names(), Book("a"), expires=bench.clock.now())
    reply = await bench.receive_one(command)
    assert reply.outcome is Outcome.EXPIRED
    assert await bench.states() == {command.id: State.BARRED}
    bench.clock.jump(-3600)
    assert await bench.receive_one(command) == reply, "a clock set back does not revive it"
    assert await bench.entries() == []


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (_Unspeakable(), "_Unspeakable"),
        (
            ValueError("a\0b\ud800"),
            "ValueError: a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}",
        ),
        (ValueError("x" * 1000), "ValueError: " + "x" * 488),
    ],
)
async def test_with_any_text_of_an_error_the_reason_can_be_stored(
    engine: AsyncEngine,
    names: Names,
    error: Exception,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What the log captures goes to another process, and half a surrogate pair cannot.
    caplog.set_level(logging.CRITICAL, logger="outbox.inbox")

    def fail(_message: Any, _context: Any) -> Any:
        raise error

    bench = Bench(engine, handling(fail))
    reply = await bench.receive_one(envelope(names(), Book("a", "1")))
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, reason)


async def test_a_handler_that_waited_for_what_others_cancelled_has_failed(
    engine: AsyncEngine, names: Names
) -> None:
    shared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    shared.cancel()

    handlers = bank(without=Book)

    @handlers.on(Book)
    async def wait(_session: AsyncSession, _command: Book, _context: Context) -> Booked:
        await shared
        return Booked(0)

    bench = Bench(engine, handlers)
    reply = await bench.receive_one(envelope(names(), Book("a", "1")))
    assert reply.outcome is Outcome.FAILED
    assert "others have cancelled" in str(reply.reason)
