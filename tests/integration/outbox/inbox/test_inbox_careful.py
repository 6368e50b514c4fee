"""Messages of a type of which one was not done: each is called within a savepoint of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Outcome, Refused
from tests.support.outbox.inboxes import (
    Bench,
    Book,
    Booked,
    Entry,
    Names,
    Noted,
    envelope,
    ledger,
    outcomes,
    plainly,
    write_entry,
)


@pytest.mark.parametrize("entries", [("bad", "fine"), ("fine", "bad")])
async def test_a_list_whose_type_failed_elsewhere_meanwhile_is_not_taken_for_one_message(
    engine: AsyncEngine, names: Names, entries: tuple[str, str]
) -> None:
    handlers = Handlers("bank")
    bench = Bench(engine, handlers)

    @handlers.on(Noted)
    async def noted(session: AsyncSession, event: Noted, context: Context) -> None:
        # As another delivery does, after the list was made and before it is called.
        bench.inbox._processor._fragile["bank.book.v1"] = 10

    @handlers.on_list(Book)
    async def book(
        session: AsyncSession, commands: Sequence[Book], contexts: Sequence[Context]
    ) -> list[Any]:
        for command, context in zip(commands, contexts, strict=True):
            await write_entry(session, command.entry, context.id)
        return [Refused("no", "no") if it.entry == "bad" else Booked(1) for it in commands]

    batch = [envelope(names(), Noted("a")), *(envelope(names(), Book(it, it)) for it in entries)]
    expected = ["done", *("refused" if entry == "bad" else "done" for entry in entries)]
    assert outcomes(await bench.receive(*batch)) == expected
    assert await bench.entries() == ["fine"]


async def test_a_handler_does_not_find_objects_as_one_that_failed_before_it_left_them(
    engine: AsyncEngine, names: Names
) -> None:
    found: list[str] = []
    kept: list[Entry | None] = []
    handlers = Handlers("bank")

    @handlers.on(Noted)
    @plainly
    def noted(session: Session, note: Noted, context: Context) -> None:
        if note.entry == "bad":
            session.execute(ledger.update().values(entry="bad"))
            kept.append(session.get(Entry, 1))
            raise ValueError("bad")
        entry = session.get(Entry, 1)
        if entry is None:
            session.add(Entry("first", context.id))
        else:
            found.append(entry.entry)

    bench = Bench(engine, handlers)
    bench.inbox._processor._fragile["press.noted.v1"] = 10
    batch = [envelope(names(), Noted(it, it)) for it in ("first", "bad", "last")]
    assert outcomes(await bench.receive(*batch)) == ["done", "failed", "done"]
    assert found == ["first"]


async def test_of_a_list_that_is_always_late_only_the_message_that_hangs_fails(
    engine: AsyncEngine, names: Names
) -> None:
    """Also where a list may take longer than a delivery."""
    handlers = Handlers("bank")

    @handlers.on_list(Noted, timeout=1.5)
    async def noted(
        session: AsyncSession, notes: Sequence[Noted], contexts: Sequence[Context]
    ) -> list[None]:
        for note, context in zip(notes, contexts, strict=True):
            if note.entry == "hangs":
                await asyncio.Event().wait()
            await write_entry(session, note.entry, context.id)
        return [None] * len(notes)

    bench = Bench(engine, handlers)
    batch = [envelope(names(), Noted(it, it)) for it in ("1", "hangs", "2")]
    for _ in range(2):
        assert set(outcomes(await bench.outlasted(*batch))) == {"ongoing"}
        await bench.inbox.drain(10)
    assert outcomes(await bench.receive(*batch)) == ["done", "failed", "done"]
    assert await bench.entries() == ["1", "2"]


async def test_a_message_whose_commit_fails_after_its_delivery_is_told_so(
    engine: AsyncEngine, names: Names
) -> None:
    """A deferred constraint fails at the commit, when no handler is in hand."""
    handlers, go_on = Handlers("bank"), asyncio.Event()

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await go_on.wait()

    def fail(_: object) -> None:
        raise ValueError("deferred")

    bench = Bench(engine, handlers)
    note = envelope(names(), Noted("a"))
    event.listen(engine.sync_engine, "commit", fail)
    assert outcomes(await bench.outlasted(note)) == ["ongoing"]
    go_on.set()
    await bench.inbox.drain(10)
    event.remove(engine.sync_engine, "commit", fail)
    reply = await bench.receive_one(note)
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "ValueError: deferred")
