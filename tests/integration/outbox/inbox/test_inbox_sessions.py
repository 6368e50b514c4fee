"""The session that the inbox shares with its handlers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import event, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from outbox import tables
from outbox.adding import add as outbox
from outbox.adding.installation import install
from outbox.inbox.handlers import Context, Handlers
from outbox.replies import Outcome, Refused, Reply
from outbox.wire.envelope import Envelope, from_row
from tests.support.outbox.inboxes import (
    Bench,
    Book,
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
    write_entry,
)

DONE = Reply(Outcome.DONE)


# --- What a handler finds -------------------------------------------------------------------------


async def test_a_handler_finds_the_writes_of_those_before_it(
    engine: AsyncEngine, names: Names
) -> None:
    """Also where the one before only added an object, and the next one asks by plain SQL."""
    found: list[int] = []
    handlers = Handlers("bank")

    @handlers.on(Noted)
    @plainly
    def noted(session: Session, note: Noted, context: Context) -> None:
        found.append(len(session.execute(select(ledger.c.entry)).all()))
        session.add(Entry(note.entry, context.id))

    bench = Bench(engine, handlers)
    await bench.receive(*(envelope(names(), Noted("a", str(number))) for number in range(3)))
    assert found == [0, 1, 2]


async def test_a_handler_does_not_find_objects_as_they_were_before_a_later_statement(
    engine: AsyncEngine, names: Names
) -> None:
    found: list[str] = []
    kept: list[Entry] = []
    handlers = Handlers("bank")

    @handlers.on(Noted)
    @plainly
    def noted(session: Session, note: Noted, context: Context) -> None:
        entry = session.get(Entry, 1)
        if entry is None:
            kept.append(Entry("first", context.id))
            session.add(kept[0])
        else:
            found.append(entry.entry)
            session.execute(ledger.update().values(entry=note.entry))

    bench = Bench(engine, handlers)
    await bench.receive(*(envelope(names(), Noted("a", entry)) for entry in ("1", "2", "3")))
    assert found == ["first", "2"]


async def test_the_context_tells_where_a_message_comes_from(
    engine: AsyncEngine, names: Names
) -> None:
    contexts: list[Context] = []
    bench = Bench(engine, handling(lambda _, context: contexts.append(context)))
    saga, cause = names(), names()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    command = envelope(names(), Book("a"), correlation=saga, causation=cause, trace=trace)
    await bench.receive(command)
    assert contexts == [Context(command.id, saga, cause, 1, "sender", trace)]


async def test_the_context_of_an_undo_names_the_actions_that_ran(
    engine: AsyncEngine, names: Names
) -> None:
    undone: list[tuple[str, ...]] = []
    handlers = bank(without=Unbook)

    @handlers.on(Unbook)
    @plainly
    def unbook(session: Session, command: Unbook, context: Context) -> None:
        undone.append(tuple(context.undoes))

    bench = Bench(engine, handlers)
    ran, never = envelope(names(), Book("a")), names()
    await bench.receive(ran)
    await bench.receive(envelope(names(), Unbook("a"), undoes=(never, ran.id)))
    assert undone == [(ran.id,)]


async def test_the_context_counts_the_calls_that_were_rolled_back(
    engine: AsyncEngine, names: Names
) -> None:
    attempts: list[int] = []

    def answer(_: Book, context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) < 5:
            raise ValueError("not yet")

    bench = Bench(engine, handling(answer))
    command = envelope(names(), Book("a"))
    for _ in range(4):
        await bench.receive(command)
    # Twice at first: together with the batch, then alone. From then on its type is handled with
    # care, in one call each time.
    assert attempts == [1, 2, 3, 4, 5]


# --- Messages that handlers add -------------------------------------------------------------------


async def sent(engine: AsyncEngine) -> list[Envelope]:
    rows = tables.outbox.c
    columns = (rows.id, rows.type, rows.aggregateid, rows.occurred_at, rows.payload, rows.headers)
    async with engine.connect() as connection:
        return [
            from_row(*row) for row in await connection.execute(select(*columns).order_by(rows.seq))
        ]


@pytest.fixture
def installed(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    sessions = async_sessionmaker(engine)
    install(sessions, source="bank", routes={Noted: ["press"]})
    return sessions


async def test_messages_added_by_handlers_carry_their_cause(
    engine: AsyncEngine, installed: async_sessionmaker[AsyncSession], names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        outbox.add(session, Noted(command.account, command.entry))

    saga = names()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bench = Bench(engine, handlers, sessions=installed)
    first = envelope(names(), Book("a"), correlation=saga, trace=trace)
    second = envelope(names(), Book("b"))
    assert outcomes(await bench.receive(first, second)) == ["done", "done"]
    assert [
        (each.key, each.causation, each.correlation, each.trace) for each in await sent(engine)
    ] == [
        ("a", first.id, saga, trace),
        ("b", second.id, None, None),
    ]


async def test_messages_added_at_the_flush_carry_the_cause_of_their_own_handler(
    engine: AsyncEngine, installed: async_sessionmaker[AsyncSession], names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Book)
    @plainly
    def book(session: Session, command: Book, context: Context) -> Any:
        session.add(Entry(command.entry, context.id))

    installed.configure(sync_session_class=type("Own", (installed.kw["sync_session_class"],), {}))

    @event.listens_for(installed.kw["sync_session_class"], "before_flush")
    def announce(session: Session, *_: object) -> None:
        for each in session.new:
            outbox.add(session, Noted(each.entry))

    bench = Bench(engine, handlers, sessions=installed)
    batch = [envelope(names(), Book("a", entry)) for entry in ("1", "2")]
    await bench.receive(*batch)
    assert [each.causation for each in await sent(engine)] == [each.id for each in batch]


async def test_a_list_handler_names_the_causes_itself(
    engine: AsyncEngine, installed: async_sessionmaker[AsyncSession], names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on_list(Listed)
    @plainly
    def listed(
        session: Session, events: Sequence[Listed], contexts: Sequence[Context]
    ) -> list[None]:
        for each, context in zip(events, contexts, strict=True):
            given = context.id if each.entry == "named" else None
            outbox.add(session, Noted(each.account), causation=given)
        return [None] * len(events)

    bench = Bench(engine, handlers, sessions=installed)
    batch = [envelope(names(), Listed("a", entry)) for entry in ("named", "unnamed")]
    await bench.receive(*batch)
    assert [each.causation for each in await sent(engine)] == [batch[0].id, None]


async def test_messages_of_a_handler_that_refuses_or_fails_never_leave(
    engine: AsyncEngine, installed: async_sessionmaker[AsyncSession], names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        outbox.add(session, Noted(command.account))
        match command.entry:
            case "refused":
                return Refused("no", "x")
            case "failed":
                raise ValueError("x")
            case _:
                return None

    bench = Bench(engine, handlers, sessions=installed)
    batch = [envelope(names(), Book(entry, entry)) for entry in ("refused", "failed", "fine")]
    assert outcomes(await bench.receive(*batch)) == ["refused", "failed", "done"]
    assert [each.key for each in await sent(engine)] == ["fine"]


# --- What a handler must not do -------------------------------------------------------------------


async def commit(session: AsyncSession) -> None:
    await session.commit()


async def commit_and_hide_it(session: AsyncSession) -> None:
    with contextlib.suppress(RuntimeError):
        await session.commit()


async def roll_back(session: AsyncSession) -> None:
    await session.rollback()


async def close(session: AsyncSession) -> None:
    await session.close()


async def leave_a_savepoint_open(session: AsyncSession) -> None:
    await session.begin_nested()


@pytest.mark.parametrize("meddle", [commit, roll_back, close, leave_a_savepoint_open])
async def test_a_handler_that_ends_the_transaction_fails_and_nothing_is_kept(
    engine: AsyncEngine, names: Names, meddle: Callable[[AsyncSession], Any]
) -> None:
    handlers = bank(without=Book)

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        await write_entry(session, "half", context.id)
        await meddle(session)

    bench = Bench(engine, handlers)
    before, after = (envelope(names(), Noted(entry, entry)) for entry in ("before", "after"))
    replies = await bench.receive(before, envelope(names(), Book("a")), after)
    assert outcomes(replies) == ["done", "failed", "done"]
    assert "the transaction that it was given" in (replies[1].reason or "")
    assert await bench.entries() == ["before", "after"]


async def test_a_handler_that_hides_its_refused_commit_commits_nothing_by_itself(
    engine: AsyncEngine, names: Names
) -> None:
    handlers = Handlers("bank")

    @handlers.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> Any:
        await write_entry(session, command.entry, context.id)
        await commit_and_hide_it(session)
        if command.entry == "bad":
            raise ValueError("after the commit")

    bench = Bench(engine, handlers)
    replies = await bench.receive(envelope(names(), Book("a", "bad")))
    assert outcomes(replies) == ["failed"]
    assert await bench.entries() == []


async def test_a_handler_may_use_savepoints(engine: AsyncEngine, names: Names) -> None:
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await write_entry(session, note.entry, context.id)
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(insert(ledger).values(entry=None, by="x"))

    bench = Bench(engine, handlers)
    batch = [envelope(names(), Noted("a", entry)) for entry in ("1", "2")]
    assert outcomes(await bench.receive(*batch)) == ["done", "done"]
    assert await bench.entries() == ["1", "2"]


async def test_a_handler_that_hides_a_database_error_is_not_believed(
    engine: AsyncEngine, names: Names, database_kind: str
) -> None:
    """PostgreSQL rolls such a transaction back at its COMMIT, without an error. SQLite undoes the
    failed statement only, and commits the rest."""
    handlers = Handlers("bank")

    @handlers.on(Noted)
    async def noted(session: AsyncSession, note: Noted, context: Context) -> None:
        await write_entry(session, note.entry, context.id)
        with contextlib.suppress(IntegrityError):
            await session.execute(insert(ledger).values(entry=None, by="x"))

    bench = Bench(engine, handlers)
    reply = await bench.receive_one(envelope(names(), Noted("a", "news")))
    kept = await bench.entries()
    assert (reply.outcome, kept) == (
        (Outcome.DONE, ["news"]) if database_kind == "sqlite" else (Outcome.FAILED, [])
    )
