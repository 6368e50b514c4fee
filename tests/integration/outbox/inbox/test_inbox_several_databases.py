"""A command takes effect once: what its handler wrote, and that it was handled, are one commit."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

import outbox
from outbox.errors import InvalidService, SeveralDatabases
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.inbox import Inbox
from outbox.replies import Outcome
from outbox.tables import inbox as inbox_table
from outbox.testing import FakeClock
from tests.support.fixtures import DatabaseFactory, MakeEngine, MakeSyncEngine
from tests.support.outbox.calls import Provider
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Booked,
    Names,
    bank,
    envelope,
    ledger,
    ledger_schema,
)
from tests.support.outbox.services import NOWHERE, make_service

REFUSED = "each commits by itself"


async def _count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return len((await connection.execute(select(ledger))).all())


async def test_a_handler_that_writes_to_another_database_fails_and_nothing_of_it_is_kept(
    engine: AsyncEngine, make_engine: MakeEngine, database_factory: DatabaseFactory, names: Names
) -> None:
    elsewhere = make_engine(database_factory(ledger_schema))
    sessions = async_sessionmaker(engine, binds={ledger: elsewhere})
    bench = Bench(engine, sessions=sessions)
    reply = await bench.receive_one(envelope(names(), Book("a")))
    assert reply.outcome is Outcome.FAILED
    assert REFUSED in (reply.reason or "")
    assert await bench.states() == {}
    assert await _count(elsewhere) == 0


async def test_a_plain_handler_fails_likewise(
    make_sync_engine: MakeSyncEngine, database_factory: DatabaseFactory, names: Names
) -> None:
    here, elsewhere = (make_sync_engine(database_factory(ledger_schema)) for _ in range(2))
    handlers = Handlers("bank")

    @handlers.on(Book)
    def book(session: Session, command: Book, context: Context) -> Any:
        session.execute(insert(ledger).values(entry=command.entry, by=context.id))
        return Booked(1)

    sessions = sessionmaker(here, binds={ledger: elsewhere})
    inbox = Inbox(handlers, sessions, clock=FakeClock(START))
    (reply,) = await inbox.receive([envelope(names(), Book("a"))])
    assert reply.outcome is Outcome.FAILED
    assert REFUSED in (reply.reason or "")
    for engine, table in ((here, inbox_table), (elsewhere, ledger)):
        assert _rows(engine, table) == 0


def _rows(engine: Engine, table: Any) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(table)).all())


async def test_a_command_is_not_completed_beside_a_write_in_another_database(
    engine: AsyncEngine, make_engine: MakeEngine, database_factory: DatabaseFactory, names: Names
) -> None:
    elsewhere = make_engine(database_factory(ledger_schema))
    service = make_service(
        async_sessionmaker(engine, binds={ledger: elsewhere}), "bank", peers={"sender": NOWHERE}
    )

    @service.on(Book)
    async def book(session: AsyncSession, command: Book, context: Context) -> outbox.Pending:
        return outbox.Pending(note="the bank calls back")

    command = envelope(names(), Book("a"))  # of no run, so that no message tells of its end
    (reply,) = await service.inbox.receive([command])
    assert reply.is_pending
    with pytest.raises(SeveralDatabases, match=REFUSED):
        async with service.sessions.begin() as session:
            await service.complete(session, command.id, Booked(3))
            await session.execute(insert(ledger).values(entry="half", by=command.id))
    assert await _count(elsewhere) == 0
    (reply,) = await service.inbox.receive([command])
    assert reply.is_pending
    async with service.sessions.begin() as session:
        await session.execute(insert(ledger).values(entry="alone", by=command.id))
    assert await _count(elsewhere) == 1


async def test_sessions_without_an_engine_of_their_own_are_refused(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidService, match="no engine of their own, only those of single tables"):
        Inbox(bank(), async_sessionmaker(binds={ledger: engine}), clock=FakeClock(START))


async def test_the_librarys_tables_are_in_the_database_of_the_sessions(
    engine: AsyncEngine, make_engine: MakeEngine, database_factory: DatabaseFactory
) -> None:
    elsewhere = make_engine(database_factory(ledger_schema))
    sessions = async_sessionmaker(elsewhere, binds={inbox_table: engine})
    with pytest.raises(InvalidService, match="bound to another engine than the sessions"):
        Inbox(bank(), sessions, clock=FakeClock(START))


async def test_what_is_written_after_a_call_to_the_outside_is_in_the_same_database(
    engine: AsyncEngine, make_engine: MakeEngine, database_factory: DatabaseFactory, names: Names
) -> None:
    elsewhere = make_engine(database_factory(ledger_schema))
    sessions = async_sessionmaker(engine, binds={ledger: elsewhere})
    handlers = Handlers("bank")
    provider = Provider(is_async=True)

    async def after(session: AsyncSession, command: Book, reply: Any, context: Context) -> None:
        await session.execute(insert(ledger).values(entry="half", by=context.id))

    handlers.outside(Book, timeout=20, keyed=True, after=after)(provider.function)
    bench = Bench(engine, handlers, sessions=sessions)
    reply = await bench.receive_one(envelope(names(), Book("a")))
    assert reply.outcome is Outcome.FAILED
    assert REFUSED in (reply.reason or "")
    assert await _count(elsewhere) == 0
