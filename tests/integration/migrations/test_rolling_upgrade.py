"""Code of this version and of the one before work on one database, and send to each other.

What the older code does is done here in its own words: it writes no column that it does not know,
and it ignores attributes of the envelope that it does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import schema
from outbox.ids import derive, first_at
from outbox.relay.ports import RelayPorts
from outbox.replies import Outcome
from outbox.tables import DEFAULT_TABLES, inbox, inbox_watermark, outbox, outbox_scheduled
from outbox.wire.envelope import Envelope, fingerprint, from_batch, headers_json, to_batch
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import START, Bench, Book, Names, Noted, envelope, ledger_metadata

DAY = timedelta(days=1)


def _migrate(step: Callable[[Operations], None]) -> Callable[[Connection], None]:
    def migrate(connection: Connection) -> None:
        step(Operations(MigrationContext.configure(connection)))

    return migrate


def _older(connection: Connection) -> None:
    """The library's tables as the version before made them."""
    _migrate(lambda op: schema.upgrade(op, to=1))(connection)
    ledger_metadata.create_all(connection)


@pytest.fixture
def database_schema() -> Schema:
    return _older


@pytest.fixture
def names() -> Names:
    return Names()


async def upgrade(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(
            _migrate(lambda op: schema.upgrade(op, start=1, to=schema.LATEST))
        )


async def write(engine: AsyncEngine, table: Any, **row: Any) -> None:
    """A row with these columns only, as the older code writes it."""
    async with engine.begin() as connection:
        await connection.execute(table.insert().inline().values(**row))


def of_older_code(message: Envelope) -> Envelope:
    """What the older code sends, and what it reads of a newer message."""
    return dataclasses.replace(message, due=None, run_number=None)


def remembered(message: Envelope, **more: Any) -> dict[str, Any]:
    """The inbox row of the older code."""
    return {
        "consumer": "bank",
        "id": message.id,
        "state": "ran",
        "source": message.source,
        "received_at": START,
        **more,
    }


async def test_rows_and_marks_of_the_older_inbox_count_after_the_upgrade(
    engine: AsyncEngine, names: Names
) -> None:
    gone, before, kept = (envelope(names(), Noted("a")) for _ in range(3))
    bench = Bench(engine)

    await write(engine, inbox, **remembered(kept, fingerprint=fingerprint(kept)))
    mark = {"consumer": "bank", "source": "", "except_ids": "[]"}
    await write(engine, inbox_watermark, **mark, scope="age", below=before.id)
    await upgrade(engine)
    bench.clock.advance(DAY.total_seconds())
    assert (await bench.receive_one(gone)).outcome is Outcome.TOO_OLD
    # A newer sender tells when it was due, in the same millisecond.
    with_due = dataclasses.replace(kept, due=START)
    assert (await bench.receive_one(with_due)).outcome is Outcome.DONE
    assert await bench.entries() == [], "it was a duplicate"
    bench.clock.advance((31 * DAY).total_seconds())
    assert await bench.inbox.purge() == 1
    assert (await bench.receive_one(with_due)).outcome is Outcome.TOO_OLD


async def test_the_older_inbox_writes_beside_the_newer_one(
    engine: AsyncEngine, names: Names
) -> None:
    await upgrade(engine)
    bench = Bench(engine)
    saga = names()
    action = envelope(names(), Book("a"), source="orchestrator", correlation=saga)
    await write(engine, inbox, **remembered(action, saga=saga))
    bench.clock.advance((40 * DAY).total_seconds())
    now = bench.clock.now()

    async def say(settled: EndedSagas) -> None:
        news = envelope(names(now), Noted("a"), source="orchestrator", due=now)
        await bench.receive(news, settled=settled)

    # Its run lives, and is told of by its id and by its number.
    number, before = names(START + DAY), first_at(START + 5 * DAY)
    await say(EndedSagas(before, frozenset({saga, number})))
    assert await bench.inbox.purge() == 0
    await say(EndedSagas(before))
    assert await bench.inbox.purge() == 1
    late = dataclasses.replace(action, due=START, run_number=None)
    assert (await bench.receive_one(late)).outcome is Outcome.TOO_OLD


async def test_a_newer_sender_is_understood_by_an_older_receiver_and_the_other_way(
    engine: AsyncEngine, names: Names
) -> None:
    """Their messages differ by attributes that the older code ignores, and by nothing else."""
    await upgrade(engine)
    bench = Bench(engine)
    newer = envelope(
        names(),
        Book("a"),
        correlation=names(),
        due=START,
        run_number=names(),
        source="orchestrator",
    )
    (arrived,) = from_batch(to_batch([newer]))
    assert (arrived.due, arrived.run_number) == (newer.due, newer.run_number)
    older = of_older_code(newer)
    assert b'"due"' not in to_batch([older])
    assert b'"runnumber"' not in to_batch([older])
    for each in (older, newer, older):
        assert (await bench.receive_one(each)).outcome is Outcome.DONE
    assert await bench.entries() == ["an entry"]


async def test_a_message_that_the_older_code_scheduled_is_due_at_its_time(
    engine: AsyncEngine, names: Names
) -> None:
    message = envelope(names(), Noted("a"))
    due_at = START + 45 * DAY
    row = {
        "id": message.id,
        "destination": "bank",
        "bucket": 16,
        "aggregatetype": "press",
        "aggregateid": message.key,
        "type": message.type,
        "payload": message.data.decode(),
        "headers": headers_json(message),
        "occurred_at": message.time,
    }
    await write(engine, outbox_scheduled, **row, due_at=due_at)
    await write(engine, outbox, **row | {"id": derive(message.id, "straight")})
    await upgrade(engine)
    bench = Bench(engine)
    bench.clock.advance((10_000 * DAY).total_seconds())
    ports = RelayPorts.of(engine, DEFAULT_TABLES, bench.clock)
    if engine.dialect.name == "postgresql":
        async with engine.begin() as connection:
            await connection.execute(outbox_scheduled.update().values(due_at=START - 3000 * DAY))
        due_at = START - 3000 * DAY
    async with engine.begin() as connection:
        assert await ports.messages.move_due(connection, ["bank"], 10) == 1
    async with engine.begin() as connection:
        fetched = await ports.messages.fetch(
            connection, "bank", {16: 0}, shares={16: 9}, most=9, most_bytes=1 << 20
        )
        rows = (await connection.execute(select(outbox.c.id))).scalars().all()
    assert len(rows) == 2
    found = {it.envelope.id: it.envelope.due for it in fetched.messages}
    assert found == {message.id: due_at, derive(message.id, "straight"): None}


async def test_the_way_back_leaves_what_the_older_code_needs(
    engine: AsyncEngine, names: Names
) -> None:
    await upgrade(engine)
    bench = Bench(engine)
    await bench.receive(envelope(names(), Noted("a"), due=START))
    mark = {"consumer": "bank", "source": "", "except_ids": "[]", "below": names()}
    for scope in ("age", "barred"):
        await write(engine, inbox_watermark, **mark, scope=scope)
    async with engine.begin() as connection:
        await connection.run_sync(_migrate(lambda op: schema.downgrade(op, to=1, start=2)))
    async with engine.connect() as connection:
        assert len((await connection.execute(select(inbox.c.id))).all()) == 1
        scopes = (await connection.execute(select(inbox_watermark.c.scope))).scalars().all()
    assert list(scopes) == ["age"]
