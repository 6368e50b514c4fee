"""The inbox on real databases: what takes effect, and how often."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from outbox.errors import InvalidMessage
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.limits import InboxLimits
from outbox.messages import Event
from outbox.replies import Outcome, Reply
from outbox.testing import crash_at
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Names,
    Noted,
    altered,
    envelope,
    outcomes,
    write_entry,
)

DONE = Reply(Outcome.DONE)


# --- P2: at most once -----------------------------------------------------------------------------


async def test_p2_a_message_takes_effect_once_and_copies_get_the_stored_reply(
    bench: Bench, names: Names
) -> None:
    command = envelope(names(), Book("a", "salary"))
    replies = [await bench.receive_one(command) for _ in range(3)]
    assert replies == [Reply(Outcome.DONE, value={"balance": 1})] * 3
    assert await bench.entries() == ["salary"]


async def test_p2_copies_within_one_batch_take_effect_once(bench: Bench, names: Names) -> None:
    command = envelope(names(), Book("a", "salary"))
    replies = await bench.receive(command, command, command)
    assert outcomes(replies) == ["done"] * 3
    assert await bench.entries() == ["salary"]


async def test_p2_copies_that_arrive_at_once_take_effect_once(bench: Bench, names: Names) -> None:
    batch = [envelope(names(), Book(f"account {number}", str(number))) for number in range(8)]
    answers = await asyncio.gather(*(bench.receive(*batch) for _ in range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert sorted(await bench.entries()) == sorted(str(number) for number in range(8))


async def test_p2_after_a_crash_before_the_commit_the_message_runs_again(
    bench: Bench, names: Names
) -> None:
    command = envelope(names(), Book("a", "salary"))
    with crash_at("inbox: before commit"):
        await bench.receive(command)
    assert await bench.entries() == []
    assert await bench.states() == {}
    assert outcomes(await bench.receive(command)) == ["done"]
    assert await bench.entries() == ["salary"]


async def test_p2_after_a_crash_before_the_reply_the_copy_is_only_answered(
    bench: Bench, names: Names
) -> None:
    command = envelope(names(), Book("a", "salary"))
    with crash_at("inbox: after commit, before reply"):
        await bench.receive(command)
    assert await bench.receive(command) == [Reply(Outcome.DONE, value={"balance": 1})]
    assert await bench.entries() == ["salary"]


async def test_two_consumers_in_one_database_each_see_a_message(
    engine: AsyncEngine, names: Names
) -> None:
    note = envelope(names(), Noted("a", "news"))
    other = Handlers("archive")

    @other.on(Noted)
    async def keep(session: AsyncSession, noted: Noted, context: Context) -> None:
        await write_entry(session, f"kept {noted.entry}", context.id)

    for bench in (Bench(engine), Bench(engine, other)):
        assert outcomes(await bench.receive(note, note)) == ["done", "done"]
    assert await bench.entries() == ["news", "kept news"]


async def test_the_same_id_with_another_content_is_rejected_and_changes_nothing(
    bench: Bench, names: Names
) -> None:
    command = envelope(names(), Book("a", "salary"))
    forged = altered(command, Book("a", "bonus"))
    replies = await bench.receive(command, forged)
    assert [reply.code for reply in replies] == [None, "conflict"]
    assert (await bench.receive_one(forged)).code == "conflict"
    assert await bench.entries() == ["salary"]


async def test_a_copy_whose_headers_differ_is_the_same_message(bench: Bench, names: Names) -> None:
    id = names()
    first = envelope(id, Book("a", "salary"))
    again = envelope(id, Book("a", "salary"), causation=names(), source="another relay")
    assert await bench.receive_one(first) == await bench.receive_one(again)
    assert await bench.entries() == ["salary"]


# --- Construction ---------------------------------------------------------------------------------


def test_a_retention_or_a_time_that_breaks_the_promises_is_refused() -> None:
    with pytest.raises(ValueError, match="retention"):
        InboxLimits(retention=InboxLimits().retention / 100)
    with pytest.raises(ValueError, match="answer_within"):
        InboxLimits(answer_within=1.0)


async def test_the_database_without_its_tables_is_not_the_messages_trouble(
    engine: AsyncEngine, names: Names
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE inbox"))
    with pytest.raises(Exception, match="inbox"):
        await Bench(engine).receive(envelope(names(), Noted("a")))


def test_an_undeclared_message_is_refused_at_registration() -> None:
    class Undeclared(Event):
        pass

    with pytest.raises(InvalidMessage):
        Handlers("bank").on(Undeclared)(lambda session, message, context: None)


async def test_an_id_that_is_known_from_another_saga_is_rejected(
    engine: AsyncEngine, names: Names
) -> None:
    bench, first, other = Bench(engine), names(), names()
    asked = envelope(names(), Book("a"), correlation=first)
    copy = dataclasses.replace(asked, correlation=other)
    together = await bench.receive(asked, copy)
    apart = await bench.receive(copy, asked)
    assert outcomes(together) == ["done", "rejected"]
    assert outcomes(apart) == ["rejected", "done"]
    assert str(together[1].reason) == str(apart[0].reason)
    assert first in str(apart[0].reason)
    assert other in str(apart[0].reason)
    assert await bench.entries() == ["an entry"]
