"""The order of a key, and what a slow message means for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Locked, Ongoing, Outcome, Refused, Reply
from outbox.testing import FakeClock
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Booked,
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
    write_entry,
)
from tests.support.processes.waiting import until

DONE = Reply(Outcome.DONE)


# --- Order of a key -------------------------------------------------------------------------------


async def test_a_failure_makes_the_rest_of_its_key_wait_and_no_other_key(
    engine: AsyncEngine, names: Names
) -> None:
    def answer(command: Book, _: Context) -> None:
        if command.entry == "bad":
            raise ValueError("bad")

    bench = Bench(engine, handling(answer))
    batch = [
        envelope(names(), Book(account, entry))
        for account, entry in [("a", "1"), ("a", "bad"), ("b", "2"), ("a", "3"), ("b", "4")]
    ]
    assert outcomes(await bench.receive(*batch)) == [
        "done",
        "failed",
        "done",
        "not-attempted",
        "done",
    ]
    assert await bench.entries() == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("result", "later"),
    [(Locked("x"), "not-attempted"), (Ongoing(), "not-attempted"), (Refused("no", "x"), "done")],
)
async def test_what_comes_again_holds_its_key_and_a_refusal_does_not(
    engine: AsyncEngine, names: Names, result: object, later: str
) -> None:
    bench = Bench(engine, handling(lambda book, _: result if book.entry == "first" else None))
    batch = [envelope(names(), Book("a", entry)) for entry in ("first", "second")]
    assert outcomes(await bench.receive(*batch))[1] == later


async def test_an_unknown_type_holds_its_key_since_a_newer_service_may_know_it(
    bench: Bench, names: Names
) -> None:
    replies = await bench.receive(
        envelope(names(), Noted("a", "1")),
        envelope(names(), Noted("a"), type="press.noted.v9"),
        envelope(names(), Noted("a", "2")),
        envelope(names(), Noted("b", "3")),
    )
    assert outcomes(replies) == ["done", "rejected", "not-attempted", "done"]
    assert await bench.entries() == ["1", "3"]


async def test_a_poisonous_action_does_not_hold_up_its_own_undo(
    engine: AsyncEngine, names: Names
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("poison")

    bench = Bench(engine, handling(fail))
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    assert outcomes(await bench.receive(action, undo)) == ["failed", "nothing-to-undo"]
    assert outcomes(await bench.receive(action)) == ["already-undone"]


async def test_what_comes_after_a_failure_of_its_key_is_not_judged_yet(
    engine: AsyncEngine, names: Names
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("bad")

    bench = Bench(engine, handling(fail))
    replies = await bench.receive(
        envelope(names(), Book("b"), data=b"{}"),
        envelope(names(), Book("a")),
        envelope(names(), Book("a"), data=b"{}"),
        envelope(names(), Book("b")),
    )
    assert outcomes(replies) == ["rejected", "failed", "not-attempted", "failed"]


async def test_list_handlers_get_their_messages_in_the_order_of_each_key(
    engine: AsyncEngine, names: Names
) -> None:
    calls: list[list[str]] = []
    handlers = bank(without=Listed)

    @handlers.on_list(Listed)
    @plainly
    def listed(
        session: Session, events: Sequence[Listed], contexts: Sequence[Context]
    ) -> list[None]:
        calls.append([event.entry for event in events])
        rows = [
            {"entry": event.entry, "by": context.id}
            for event, context in zip(events, contexts, strict=True)
        ]
        session.execute(insert(ledger), rows)
        return [None] * len(events)

    bench = Bench(engine, handlers)
    order = [Listed("a", "1"), Listed("b", "2"), Noted("a", "3"), Listed("a", "4")]
    await bench.receive(*(envelope(names(), message) for message in order))
    assert calls == [["1", "2"], ["4"]]
    assert await bench.entries() == ["1", "2", "3", "4"]


@pytest.mark.databases("postgresql")
async def test_two_batches_about_the_same_things_do_not_wait_for_one_another_crosswise(
    engine: AsyncEngine, names: Names
) -> None:
    called: list[str] = []
    wanted: dict[type, str] = {}
    hold_one: set[type] = set()
    handlers = Handlers("bank")

    async def hold(session: AsyncSession, message: Book | Noted) -> None:
        """Lock the account. The first of a batch then waits until the other batch has locked one,
        or waits for this one."""
        kind, account = type(message), message.account
        other = Book if kind is Noted else Noted
        called.append(account)
        wanted[kind] = account
        lock = "SELECT pg_advisory_xact_lock(hashtext(:account))"
        await session.execute(text(lock), {"account": account})

        async def is_met() -> bool:
            return other in hold_one or wanted.get(other) == account

        if kind not in hold_one:
            hold_one.add(kind)
            await until(is_met, deadline=10, what="the other batch is under way")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, _: Context) -> None:
        await hold(session, note)

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, _: Context) -> Booked:
        await hold(session, command)
        return Booked(0)

    # Each in a process of its own, and from another sender.
    one, two = Bench(engine, handlers), Bench(engine, handlers)
    notes = [envelope(names(), Noted(account)) for account in "ab"]
    books = [envelope(names(), Book(account), key=f"saga of {account}") for account in "ba"]
    replies = await asyncio.gather(one.receive(*notes), two.receive(*books))
    assert [outcomes(each) for each in replies] == [["done"] * 2] * 2
    assert sorted(called) == ["a", "a", "b", "b"]  # no handler was called twice for a message


async def test_a_list_that_fails_is_tried_one_by_one(engine: AsyncEngine, names: Names) -> None:
    handlers = Handlers("bank")

    @handlers.on_list(Listed)
    async def listed(
        session: AsyncSession, events: Sequence[Listed], contexts: Sequence[Context]
    ) -> list[None]:
        for each, context in zip(events, contexts, strict=True):
            await write_entry(session, each.entry, context.id)
        if any(each.entry == "bad" for each in events):
            raise ValueError("bad")
        return [None] * len(events)

    bench = Bench(engine, handlers)
    batch = [envelope(names(), Listed(entry, entry)) for entry in ("1", "bad", "2")]
    assert outcomes(await bench.receive(*batch)) == ["done", "failed", "done"]
    assert await bench.entries() == ["1", "2"]


# --- Time -----------------------------------------------------------------------------------------


async def test_a_slow_handler_does_not_hold_up_the_other_keys(
    engine: AsyncEngine, names: Names
) -> None:
    handlers = bank(without=Noted)
    called: list[str] = []

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        called.append(note.entry)
        # The slow one is called next, with little time. The others have it on a busy machine too.
        object.__setattr__(bench.inbox._times, "usual", 0.4 if called == ["1"] else 4.0)
        if note.entry == "slow":
            await asyncio.Event().wait()
        await write_entry(session, note.entry, context.id)

    bench = Bench(engine, handlers)
    order = [("a", "1"), ("a", "slow"), ("a", "2"), ("b", "3"), ("c", "4")]
    batch = [envelope(names(), Noted(key, entry)) for key, entry in order]
    replies = await bench.receive(*batch)
    assert outcomes(replies) == ["done", "failed", "not-attempted", "done", "done"]
    assert (replies[1].reason or "").endswith(
        "noted was not done within 0.4 s; a longer timeout=... can be given where it is registered"
    )
    assert called == ["1", "slow", "3", "4", "1"], "it is not called again with the others"
    assert await bench.entries() == ["3", "4", "1"]


async def test_what_cannot_be_begun_in_time_is_not_begun(engine: AsyncEngine, names: Names) -> None:
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await write_entry(session, note.entry, context.id)
        if note.entry == "bad":
            clock.advance(3600)
            raise ValueError("bad")

    clock = FakeClock(START)
    bench = Bench(engine, handlers, clock=clock)
    batch = [envelope(names(), Noted(entry, entry)) for entry in ("bad", "2", "3")]
    replies = await bench.receive(*batch)
    assert outcomes(replies) == ["not-attempted"] * 3
    assert outcomes(await bench.receive(*batch[1:])) == ["done", "done"]
