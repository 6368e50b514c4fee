"""Installations whose tables have a prefix or a schema, in one database, beside tables that have
the library's plain names and belong to another program."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import outbox
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.tables import saga_tables
from outbox import Tables, dead_letters
from outbox.chassis.endpoints.overview import overview
from outbox.chassis.endpoints.served import standing_of
from outbox.ids import compose
from outbox.operations.operations import Operations
from outbox.operations.selection import Selection
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.transports.memory import MemoryTransport
from tests.support.databases.databases import Database, Schema
from tests.support.databases.trapped import none_named, set_traps
from tests.support.fixtures import MakeEngine
from tests.support.orchestrator.engines import Scripted, running
from tests.support.outbox.inboxes import (
    Book,
    Booked,
    Noted,
    ledger,
    ledger_metadata,
    plainly,
)
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import BUSY, until

ARTICLE = compose(1_700_000_000_000, 1)
ONCE = RelaySettings(retry=RetryPolicy(attempts=1), poll=0.05)


@pytest.fixture
def comments() -> Scripted:
    participant = Scripted()
    participant.values["comments.close-thread.v1"] = {"comments": 3}
    return participant


@pytest.fixture
def database_schema() -> Schema:
    return set_traps


Names = tuple[Tables, Tables, Tables]
"""The tables of three installations."""

PREFIXED: Names = (Tables("till_"), Tables("bank_"), Tables("sagas_"))
IN_SCHEMAS: Names = (Tables(schema="till"), Tables(schema="bank"), Tables(schema="order"))
IN_A_SCHEMA: Names = (Tables("till_", "mine"), Tables("bank_", "mine"), Tables("sagas_", "mine"))


@asynccontextmanager
async def prepared(engine: AsyncEngine, names: Names) -> AsyncIterator[Names]:
    """The database has these tables within the block, in which no statement names others."""
    async with engine.begin() as connection:
        await connection.run_sync(ledger_metadata.create_all)
        for tables in names:
            await connection.run_sync(tables.metadata.create_all)
        await connection.run_sync(saga_tables(names[2]).metadata.create_all)
    with none_named(engine.sync_engine):
        yield names


async def entries(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return sorted((await connection.scalars(select(ledger.c.entry))).all())


async def test_two_services_share_a_database_by_prefixes(engine: AsyncEngine) -> None:
    async with prepared(engine, PREFIXED) as names:
        await work(engine, names)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("names", [IN_SCHEMAS, IN_A_SCHEMA], ids=["schemas", "both"])
async def test_two_services_share_a_database_by_schemas(engine: AsyncEngine, names: Names) -> None:
    async with prepared(engine, names):
        await work(engine, names)


async def work(engine: AsyncEngine, names: Names) -> None:
    """Add, send, receive, complete, bury, redrive and purge."""
    of_till, of_bank, _ = names
    clock = outbox.SystemClock()
    is_closed = True
    transports: dict[str, Any] = {}
    bank = make_service(engine, "bank", tables=of_bank, transports=transports, relay=ONCE)
    till = make_service(
        engine,
        "till",
        tables=of_till,
        routes={Noted: ["bank"]},
        peers={"bank": "http://127.0.0.1:1"},
        transports={"bank": MemoryTransport(bank.inbox.receive)},
        relay=ONCE,
    )
    pended: list[str] = []

    @bank.on(Book)
    async def book(session: AsyncSession, command: Book, context: outbox.Context) -> outbox.Pending:
        await session.execute(ledger.insert().values(entry=command.entry, by=context.id))
        pended.append(context.id)
        return outbox.Pending()

    @bank.on(Noted)
    @plainly
    def note(session: Session, event: Noted, context: outbox.Context) -> None:
        if is_closed:
            raise ValueError("closed")
        session.execute(ledger.insert().values(entry=event.entry, by=context.id))

    async with AsyncExitStack() as stack:
        for service in (bank, till):
            await stack.enter_async_context(service.running())
        async with till.sessions.begin() as session:
            outbox.add(session, Book("a", "a command"))
            note_id = outbox.add(session, Noted("b", "an event"))
            outbox.add(session, Noted("c", "later"), deliver_at=clock.now() + timedelta(days=1))

        async def is_dead() -> bool:
            async with engine.connect() as connection:
                return bool((await dead_letters.list_dead(connection, tables=of_till)).items)

        await until(is_dead, what="the note died")

        async def is_pending() -> bool:
            return bool(pended)

        await until(is_pending, what="the command is pending")
        [to_bank] = (await standing_of(till)).backlogs
        assert (to_bank.destination, to_bank.dead, to_bank.scheduled) == ("bank", 1, 1)
        waiting = {it.kind: it.count for it in (await standing_of(bank)).waiting}
        assert waiting == {"calling": 0, "waiting": 1}
        async with bank.sessions.begin() as session:
            [listed] = (await bank.pending.list(session)).items
            await bank.complete(session, listed.id, Booked(1))
        is_closed = False
        async with till.sessions.begin() as session:
            assert await dead_letters.redrive(session, [note_id]) == 1

        async def has_both() -> bool:
            return await entries(engine) == ["a command", "an event"]

        await until(has_both, what="both took effect")
        assert await bank.inbox.purge() == 0
        async with engine.connect() as connection:
            for tables, count in ((of_bank, 2), (of_till, 0)):
                found = select(func.count()).select_from(tables.inbox)
                assert await connection.scalar(found) == count


async def run_a_saga(engine: AsyncEngine, names: Tables, comments: Scripted) -> None:
    articles = Scripted()
    articles.values["articles.hide-article.v1"] = {"title": "Tides", "version": 1}
    ways = {"articles": articles, "comments": comments}
    async with running(engine, [delete_article], ways, names=names) as node:
        started = await node.engine.start(delete_article, Deletion(ARTICLE))
        await node.until_status(started.instance_id, Status.COMPLETED)
        assert await node.rows(names.outbox) == []


async def test_an_orchestrator_lives_beside_services_by_its_prefix(
    engine: AsyncEngine, comments: Scripted
) -> None:
    async with prepared(engine, PREFIXED) as names:
        await run_a_saga(engine, names[2], comments)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("names", [IN_SCHEMAS, IN_A_SCHEMA], ids=["schemas", "both"])
async def test_an_orchestrator_lives_beside_services_by_its_schema(
    engine: AsyncEngine, comments: Scripted, names: Names
) -> None:
    async with prepared(engine, names):
        await run_a_saga(engine, names[2], comments)


@pytest.mark.databases("postgresql")
async def test_installations_do_not_wait_for_the_keys_of_each_other(
    engine: AsyncEngine, make_engine: MakeEngine, database: Database
) -> None:
    async with prepared(engine, PREFIXED) as (first, second, _):
        engines = [make_engine(database) for _ in range(2)]
        for each, tables in zip(engines, (first, second), strict=True):
            outbox.install(each, source="till", routes={Noted: ["bank"]}, tables=tables)
        async with engines[0].begin() as one, engines[1].begin() as other:
            await one.run_sync(lambda it: outbox.add(it, Noted("the same key")))
            async with asyncio.timeout(10 * BUSY):
                await other.run_sync(lambda it: outbox.add(it, Noted("the same key")))


async def operate(engine: AsyncEngine, tables: Tables) -> None:
    """Block a key, free it, block it again and bury its message; move and drop what is
    scheduled."""
    clock = outbox.SystemClock()
    ids = outbox.Ids(clock, secrets.token_bytes)
    outbox.install(engine, source="till", routes={Noted: ["bank"]}, tables=tables)
    blocks = replace(ONCE, on_exhaustion=outbox.OnExhaustion.BLOCK_KEY)
    transport = MemoryTransport(_failing)
    relay = outbox.Relay(
        engine, {"bank": transport}, owner="till", clock=clock, settings=blocks, tables=tables
    )
    async with engine.begin() as connection:
        first = await connection.run_sync(lambda it: outbox.add(it, Noted("a", "one")))
        await connection.run_sync(lambda it: outbox.add(it, Noted("a", "two")))
        late = clock.now() + timedelta(days=1)
        await connection.run_sync(lambda it: outbox.add(it, Noted("c", "later"), deliver_at=late))
    operations = Operations(engine, tables, clock, ids)

    async def is_blocked() -> bool:
        await relay.run_once()
        page, behind = await operations.held(Selection(type="*"), only_blocked=True)
        return [(it.id, count) for it, count in zip(page.items, behind, strict=True)] == [
            (first, 1)
        ]

    await until(is_blocked, what="the key is blocked")
    assert (await operations.redrive(Selection(older_than=late))).held_messages == 1
    await until(is_blocked, what="the key is blocked again")
    assert (await operations.drop(Selection(ids=(first,)), buried_by="ann")).held_messages == 1
    assert [it.id for it in (await operations.dead(Selection())).items] == [first]
    assert (await operations.redrive(Selection(key="a"))).dead_letters == 1
    assert (await operations.reschedule(Selection(key="c"), late)).scheduled == 0
    assert (await operations.drop_scheduled(Selection(key="c"))).scheduled == 1
    assert (await operations.purge(Selection(older_than=late))).dead_letters == 0
    (found,) = (await overview(engine, tables, clock, "till")).backlogs
    assert (found.unsent + found.parked, found.scheduled, found.dead) == (2, 0, 0)
    await relay.aclose()


async def _failing(envelopes: Sequence[outbox.Envelope], *_: Any) -> list[outbox.Reply]:
    return [outbox.Reply(outbox.Outcome.FAILED, reason="no") for _ in envelopes]


async def test_an_outbox_is_operated_by_its_prefix(engine: AsyncEngine) -> None:
    async with prepared(engine, PREFIXED) as names:
        await operate(engine, names[0])


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("names", [IN_SCHEMAS, IN_A_SCHEMA], ids=["schemas", "both"])
async def test_an_outbox_is_operated_by_its_schema(engine: AsyncEngine, names: Names) -> None:
    async with prepared(engine, names):
        await operate(engine, names[0])
