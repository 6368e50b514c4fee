"""What holds above READ COMMITTED, and what is refused there: PostgreSQL's isolation levels."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.replies import Outcome
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Book, Booked, Names, Noted, envelope, ledger_schema
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service

pytestmark = pytest.mark.databases("postgresql")

HIGHER = ["REPEATABLE READ", "SERIALIZABLE"]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


async def _book(session: AsyncSession, command: Book, context: outbox.Context) -> Booked:
    return Booked(1)


def _book_plainly(session: Session, command: Book, context: outbox.Context) -> Booked:
    return Booked(1)


@pytest.mark.parametrize("level", HIGHER)
async def test_a_service_whose_handlers_would_look_at_the_past_does_not_start(
    database: Database, make_engine: MakeEngine, make_sync_engine: MakeSyncEngine, level: str
) -> None:
    one = make_service(make_engine(database, isolation_level=level), "bank")
    one.on(Book)(_book)
    other = make_plain_service(make_sync_engine(database, isolation_level=level), name="bank")
    other.on(Book)(_book_plainly)
    services: list[outbox.Service[Any]] = [one, other]
    for service in services:
        with pytest.raises(outbox.IsolationRefused, match=f"{level}, under which .*; give the inb"):
            async with service.running():
                pass
    await other.engine.dispose()


async def test_the_level_that_a_database_gives_to_each_session_counts_too(
    make_sync_engine: MakeSyncEngine, database: Database
) -> None:
    """With psycopg; SQLAlchemy's asyncpg always names a level of its own."""
    engine = make_sync_engine(database)
    name = database.url.rpartition("/")[2]
    with engine.begin() as connection:
        level = "SET default_transaction_isolation = 'serializable'"
        connection.execute(text(f'ALTER DATABASE "{name}" {level}'))
    engine.dispose()
    service = make_plain_service(engine, name="bank")
    service.on(Book)(_book_plainly)
    with pytest.raises(outbox.IsolationRefused, match="SERIALIZABLE"):
        async with service.running():
            pass
    await service.engine.dispose()


@pytest.mark.parametrize("level", HIGHER)
async def test_a_service_that_only_sends_may_have_any_level(
    database: Database, make_engine: MakeEngine, level: str
) -> None:
    service = make_service(
        make_engine(database, isolation_level=level),
        peers={"press": NOWHERE},
        routes={Noted: ["press"]},
    )
    async with service.running(), service.sessions.begin() as session:
        outbox.add(session, Noted("a"))


@pytest.mark.parametrize("level", HIGHER)
async def test_an_answer_is_refused_in_a_transaction_that_would_not_see_a_call_begin(
    engine: AsyncEngine, names: Names, level: str
) -> None:
    bank = make_service(engine, "bank", peers={"sender": NOWHERE})

    @bank.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> outbox.Pending:
        return outbox.Pending(note="the bank calls back")

    command = envelope(names(), Book("a"), correlation=names(), reply_to="sender")
    await bank.inbox.receive([command])
    async with bank.sessions() as session:
        await session.connection(execution_options={"isolation_level": level})
        refused = f"{level}, under which a call to the outside"
        with pytest.raises(outbox.IsolationRefused, match=refused):
            await bank.complete(session, command.id, Booked(3))
        with pytest.raises(outbox.IsolationRefused, match=refused):
            await bank.pending.drop(session, command.id, actor="ann", reason="she knows")
        await session.commit()
    (reply,) = await bank.inbox.receive([command])
    assert reply.is_pending
    async with bank.sessions.begin() as session:
        await bank.complete(session, command.id, Booked(3))
    (reply,) = await bank.inbox.receive([command])
    assert reply.outcome is Outcome.DONE
