"""`service.complete` on both kinds of databases: a webhook, in its own transaction."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, scoped_session

import outbox
from outbox.replies import Outcome
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.inboxes import Book, Booked, Names, envelope, ledger_schema, write_entry
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


async def test_a_webhook_completes_a_pending_command_on_an_asynchronous_database(
    engine: AsyncEngine, names: Names
) -> None:
    bank = make_service(engine, "bank", peers={"sender": NOWHERE})

    @bank.on(Book)
    async def book(
        session: AsyncSession, command: Book, context: outbox.Context
    ) -> Booked | outbox.Pending:
        await write_entry(session, command.entry, context.id)
        return outbox.Pending(note="the bank calls back", expect=timedelta(days=1))

    command = envelope(names(), Book("a"), correlation=names(), reply_to="sender")
    (reply,) = await bank.inbox.receive([command])
    assert reply.is_pending
    async with bank.sessions.begin() as session:
        await bank.complete(session, command.id, Booked(3))
    (reply,) = await bank.inbox.receive([command])
    assert (reply.outcome, reply.value) == (Outcome.DONE, {"balance": 3})


async def test_a_webhook_completes_a_pending_command_on_a_synchronous_database(
    make_sync_engine: MakeSyncEngine, database: Database, names: Names
) -> None:
    bank = make_plain_service(make_sync_engine(database), peers={"sender": NOWHERE}, name="bank")

    @bank.on(Book)
    def book(session: Session, command: Book, context: outbox.Context) -> Booked | outbox.Pending:
        return outbox.Pending(note="the bank calls back")

    command = envelope(names(), Book("a"), correlation=names(), reply_to="sender")
    (reply,) = await bank.inbox.receive([command])
    assert reply.is_pending
    with bank.sessions.begin() as session:
        bank.complete(session, command.id, outbox.Refused("full", "no seat is left"))
    (reply,) = await bank.inbox.receive([command])
    assert (reply.outcome, reply.after_pending) == (Outcome.REFUSED, True)
    await bank.engine.dispose()


async def test_complete_needs_an_open_transaction(engine: AsyncEngine, names: Names) -> None:
    bank = make_service(engine, "bank", peers={"sender": NOWHERE})
    async with bank.sessions() as session:
        completing = bank.complete(session, names(), Booked(1))
        assert inspect.iscoroutine(completing)
        with pytest.raises(outbox.NotInTransaction, match="complete"):
            await completing


async def test_the_id_must_be_one(engine: AsyncEngine) -> None:
    bank = make_service(engine, "bank", peers={"sender": NOWHERE})
    async with bank.sessions.begin() as session:
        with pytest.raises(outbox.InvalidMessage, match=r"context\.id"):
            await bank.complete(session, "seven", Booked(1))


async def test_a_scoped_session_completes_as_the_session_of_its_scope(
    make_sync_engine: MakeSyncEngine, database: Database, names: Names
) -> None:
    bank = make_plain_service(make_sync_engine(database), peers={"sender": NOWHERE}, name="bank")

    @bank.on(Book)
    def book(session: Session, command: Book, context: outbox.Context) -> outbox.Pending:
        return outbox.Pending()

    command = envelope(names(), Book("a"), correlation=names(), reply_to="sender")
    await bank.inbox.receive([command])
    scoped = scoped_session(bank.sessions)
    with scoped.begin():
        bank.complete(scoped, command.id, Booked(3))
    scoped.remove()
    (reply,) = await bank.inbox.receive([command])
    assert reply.value == {"balance": 3}
    await bank.engine.dispose()
