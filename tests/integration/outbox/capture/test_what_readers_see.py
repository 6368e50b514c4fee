"""What a reader of PostgreSQL's log sees of the outbox while a service runs: one insert for each
message and destination, in the order of the commits, and deletes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import outbox
from outbox import dead_letters, tables
from outbox.clock import SystemClock
from outbox.lanes import BUCKETS_PER_LANE
from outbox.relay.settings import RelaySettings
from outbox.retry import RetryPolicy
from outbox.transports.base import Answered, Delivery
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database, Schema
from tests.support.databases.logical_log import Change, LogReader, log_reader, publish
from tests.support.outbox.inboxes import Book, Noted, ledger_schema
from tests.support.outbox.services import NOWHERE, make_service
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")

QUICKLY = RetryPolicy(first=0.02, ceiling=0.02, attempts=3)


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def reader(database: Database, engine: AsyncEngine) -> Iterator[LogReader]:
    publish(database, "changes", "outbox")
    # A slot begins when all transactions of the server have ended that are open now.
    with log_reader(database, "changes", slot=database.url.rpartition("/")[2]) as opened:
        yield opened


class Shelf:
    """A peer that takes what comes, but fails at some keys: `twice` at the first two attempts,
    `never` at each of them."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self.taken: list[str] = []
        self.is_mended = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        return Answered([self._answer(it) for it in envelopes])

    async def aclose(self) -> None:
        """Nothing is open."""

    def _answer(self, envelope: Envelope) -> outbox.Reply:
        self.attempts.append(envelope.key)
        fails = envelope.key == "never" and not self.is_mended
        if fails or (envelope.key == "twice" and self.attempts.count("twice") <= 2):
            return outbox.Reply(outbox.Outcome.FAILED, reason="it is broken")
        self.taken.append(envelope.id)
        return outbox.Reply(outbox.Outcome.DONE)


def sender(engine: AsyncEngine, shelf: Shelf, **relay: Any) -> outbox.Service:
    names = ("press", "search", "bank")
    return make_service(
        engine,
        routes={Noted: ["press", "search"]},
        peers=dict.fromkeys(names, NOWHERE),
        transports=dict.fromkeys(names, shelf),
        relay=RelaySettings(retry=QUICKLY, poll=0.02, **relay),
    )


async def added(connection: AsyncConnection, message: outbox.Event) -> str:
    """Its id; it is in the database at once, in the open transaction or in a new one."""
    if not connection.in_transaction():
        await connection.begin()
    return await connection.run_sync(outbox.add, message)


def seen(changes: Sequence[Change], kind: str = "insert") -> list[tuple[str, str]]:
    """The ids and destinations of what was inserted, in order."""
    rows = [it.new for it in changes if it.kind == kind]
    return [(str(row["id"]), str(row["destination"])) for row in rows if row is not None]


def numbers(changes: Sequence[Change], kind: str) -> list[str | None]:
    """The `seq` of the rows, in order."""
    rows = [it.new if kind == "insert" else it.old for it in changes if it.kind == kind]
    return [row["seq"] for row in rows if row is not None]


def at_both(*ids: str) -> list[tuple[str, str]]:
    """What is seen of events on the route."""
    return [(id, name) for id in ids for name in ("press", "search")]


async def test_each_column_has_what_the_router_reads(
    engine: AsyncEngine, reader: LogReader
) -> None:
    service = sender(engine, Shelf())
    async with service.sessions.begin() as session:
        command = outbox.add(session, Book("acc-7", 'ünïcode "quoted" 🙂'))
    (change,) = reader.take()
    assert (change.kind, change.table, change.old) == ("insert", "public.outbox", None)
    row = dict(change.new or {})
    assert json.loads(str(row.pop("payload"))) == {
        "account": "acc-7",
        "entry": 'ünïcode "quoted" 🙂',
    }
    assert json.loads(str(row.pop("headers")))["source"] == "till"
    added = datetime.fromisoformat(str(row.pop("occurred_at")))
    assert abs(added - SystemClock().now()) < timedelta(minutes=1)
    assert 0 <= int(str(row.pop("bucket"))) % BUCKETS_PER_LANE < BUCKETS_PER_LANE
    assert int(str(row.pop("xid"))) > 0
    assert int(str(row.pop("seq"))) > 0
    assert row == {
        "id": command,
        "destination": "bank",
        "aggregatetype": "bank",
        "aggregateid": "acc-7",
        "type": "bank.book.v1",
    }


async def test_messages_are_seen_in_the_order_of_their_commits(
    engine: AsyncEngine, reader: LogReader
) -> None:
    outbox.install(engine, source="till", routes={Noted: ["press", "search"]})
    async with engine.connect() as slow, engine.connect() as quick:
        first = await added(slow, Noted("a", "inserted first"))
        second = await added(slow, Noted("b", "of the same transaction"))
        third = await added(quick, Noted("c", "committed first"))
        await quick.commit()
        await slow.commit()
    changes = reader.take()
    assert seen(changes) == at_both(third, first, second)
    assert numbers(changes, "insert") == ["5", "6", "1", "2", "3", "4"]
    assert [it.transaction for it in changes] == [1, 1, 2, 2, 2, 2]


async def test_nothing_is_seen_of_what_was_rolled_back(
    engine: AsyncEngine, reader: LogReader
) -> None:
    outbox.install(engine, source="till", routes={Noted: ["press", "search"]})
    async with engine.connect() as connection:
        await added(connection, Noted("a", "rolled back"))
        await connection.rollback()
        before = await added(connection, Noted("a", "before a savepoint"))
        savepoint = await connection.begin_nested()
        await added(connection, Noted("a", "within it"))
        await savepoint.rollback()
        savepoint = await connection.begin_nested()
        released = await added(connection, Noted("a", "within a released one"))
        await savepoint.commit()
        await connection.commit()
    service = sender(engine, Shelf())
    async with service.sessions.begin() as session:
        outbox.add(session, Noted("a", "rolled back"))
        await session.rollback()
    async with service.sessions.begin() as session:
        kept = outbox.add(session, Noted("a", "kept"))
        with pytest.raises(LookupError):
            async with session.begin_nested():
                outbox.add(session, Noted("a", "of a savepoint"))
                await session.execute(select(1))
                raise LookupError
    assert seen(reader.take()) == at_both(before, released, kept)


async def test_a_run_shows_an_insert_for_each_message_and_then_its_delete(
    engine: AsyncEngine, reader: LogReader
) -> None:
    """Retries and a dead letter among them: what is not sent yet is not written again."""
    shelf = Shelf()
    service = sender(engine, shelf)
    chance = random.Random(7)
    committed: list[list[str]] = []

    async def write(number: int) -> None:
        for turn in range(6):
            keys = [f"k{chance.randrange(9)}" for _ in range(chance.randint(1, 4))]
            if turn == 2:
                keys += ["twice", "never"][number % 2 : number % 2 + 1]
            async with service.sessions() as session, session.begin() as transaction:
                ids = [
                    outbox.add(session, Noted(key, "🙂" * chance.randrange(200))) for key in keys
                ]
                if turn != 2 and chance.random() < 0.3:
                    await transaction.rollback()
                    continue
            committed.append(ids)

    changes: list[Change] = []

    async def is_empty() -> bool:
        changes.extend(reader.take())
        return len(numbers(changes, "delete")) == 2 * sum(map(len, committed))

    async with service.running():
        await asyncio.gather(*(write(number) for number in range(6)))
        await until(is_empty, what="every row is gone")
    assert {it.kind for it in changes} == {"insert", "delete"}
    assert {it.table for it in changes} == {"public.outbox"}
    inserted = seen(changes)
    assert sorted(inserted) == sorted(at_both(*(id for ids in committed for id in ids)))
    by_transaction: dict[int, list[tuple[str, str]]] = {}
    for change in changes:
        if change.kind == "insert":
            by_transaction.setdefault(change.transaction, []).extend(seen([change]))
    assert sorted(by_transaction.values()) == sorted(at_both(*ids) for ids in committed)
    assert numbers(changes, "delete") != numbers(changes, "insert")
    assert sorted(map(str, numbers(changes, "delete"))) == sorted(
        map(str, numbers(changes, "insert"))
    )
    async with engine.connect() as connection:
        dead = (await dead_letters.list_dead(connection)).items
    assert [it.key for it in dead] == ["never"] * 6, "three writers, two destinations"
    assert shelf.attempts.count("twice") >= 8, "two that failed, and the six messages"


async def test_one_that_comes_back_is_seen_again_under_its_id(
    engine: AsyncEngine, reader: LogReader
) -> None:
    """A dead letter that is sent again, and a parked message that has its turn: for a reader they
    come twice, as any message may."""
    shelf = Shelf()
    service = sender(engine, shelf)
    async with service.sessions.begin() as session:
        id = outbox.add(session, Noted("never", "an event"), to="press")

    async def is_dead() -> bool:
        async with engine.connect() as connection:
            return len((await dead_letters.list_dead(connection)).items) == 1

    async with service.running():
        await until(is_dead, what="it is a dead letter")
        assert seen(reader.take()) == [(id, "press")]
        shelf.is_mended = True
        async with engine.begin() as connection:
            await dead_letters.redrive(connection, [id])
        await until(lambda: id in shelf.taken, what="it is sent")
    changes = reader.take()
    assert seen(changes) == [(id, "press")]
    assert [it.kind for it in changes] == ["insert", "delete"]


async def test_a_parked_message_is_seen_again_under_its_id(
    engine: AsyncEngine, reader: LogReader
) -> None:
    shelf = Shelf()
    service = sender(engine, shelf, park_after=0.001)
    async with service.sessions.begin() as session:
        id = outbox.add(session, Noted("twice", "an event"), to="press")
    async with service.running():
        await until(lambda: id in shelf.taken, what="it is sent at the third attempt")
    changes = reader.take()
    assert seen(changes) == [(id, "press")] * 3
    assert len(set(numbers(changes, "insert"))) == 1
    assert [it.kind for it in changes] == ["insert", "delete"] * 3


async def test_a_scheduled_message_is_seen_when_it_is_due(
    engine: AsyncEngine, reader: LogReader
) -> None:
    shelf = Shelf()
    service = sender(engine, shelf)
    now = SystemClock().now()
    later = now + timedelta(hours=1)
    async with service.sessions.begin() as session:
        id = outbox.add(session, Noted("a", "an event"), to="press", deliver_at=later)
    assert reader.take() == []
    async with engine.begin() as connection:
        await connection.execute(tables.outbox_scheduled.update().values(due_at=now))
    async with service.running():
        await until(lambda: id in shelf.taken, what="it is sent")
    assert seen(reader.take()) == [(id, "press")]


async def test_the_reader_would_see_an_update_and_a_truncate(
    engine: AsyncEngine, reader: LogReader
) -> None:
    service = sender(engine, Shelf())
    async with service.sessions.begin() as session:
        outbox.add(session, Noted("a", "an event"), to="press")
    async with engine.begin() as connection:
        await connection.execute(tables.outbox.update().values(type="changed"))
        await connection.execute(text("TRUNCATE outbox"))
    changes = reader.take()
    assert [it.kind for it in changes] == ["insert", "update", "truncate"]
    assert changes[1].new is not None
    assert changes[1].new["type"] == "changed"
