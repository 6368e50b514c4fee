"""Messages of a type of which one was not done: each is called within a savepoint of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Refused
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
