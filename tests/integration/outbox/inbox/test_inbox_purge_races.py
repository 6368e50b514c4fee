"""A purge, and at the same time a copy, an undo or another purge. On PostgreSQL, where several
transactions write at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from outbox.inbox.purge import statements
from outbox.inbox.transactions import store
from outbox.replies import Outcome
from outbox.tables import inbox
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.inboxes import Bench, Book, Names, Noted, Unbook, envelope
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("postgresql")

DAY = timedelta(days=1)
RETENTION = timedelta(days=30)
LATER = RETENTION + DAY


def pass_time(bench: Bench, by: timedelta) -> None:
    bench.clock.advance(by.total_seconds())


async def known(bench: Bench) -> set[str]:
    return set(await bench.states())


async def say(bench: Bench, names: Names, settled: EndedSagas) -> None:
    """The orchestrator's next batch, with its statement; the message in it is a new event."""
    note = envelope(names(bench.clock.now()), Noted("a"), source="orchestrator")
    await bench.receive(note, settled=settled)


def command(names: Names, saga: str, **rest: Any) -> Envelope:
    return envelope(names(), Book("a"), source="orchestrator", correlation=saga, **rest)


async def test_a_copy_that_waited_for_a_purge_is_too_old(
    bench: Bench, names: Names, engine: AsyncEngine
) -> None:
    """The watermark is read after the insert: one that was read before would not know it yet."""
    note = envelope(names(), Noted("a", "news"))
    await bench.receive(note)
    pass_time(bench, LATER)
    async with bench.sessions() as session:
        now = bench.clock.now()
        gone = await session.run_sync(statements.purge, "bank", {}, now, RETENTION, 10)
        assert gone == 1
        copy = asyncio.create_task(bench.receive_one(note))
        await until(lambda: _locks_waited_for(engine), what="the copy waits for the purge")
        await session.commit()
    assert (await copy).outcome is Outcome.TOO_OLD
    assert await bench.entries() == ["news"]


async def _locks_waited_for(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        return bool(await connection.scalar(text("SELECT 1 FROM pg_locks WHERE NOT granted")))


@pytest.fixture
def purge_before_read(
    bench: Bench, database: Database, make_sync_engine: MakeSyncEngine, monkeypatch: Any
) -> list[int]:
    """Before the inbox looks at rows that its insert found there, a purge takes them away; how
    many, each time."""
    purged: list[int] = []
    other = make_sync_engine(database)
    read = store.read

    def purge_and_read(*arguments: Any, **rest: Any) -> Any:
        with Session(other) as session, session.begin():
            now = bench.clock.now()
            purged.append(statements.purge(session, "bank", {}, now, RETENTION, 10))
        return read(*arguments, **rest)

    monkeypatch.setattr(store, "read", purge_and_read)
    return purged


async def test_a_row_that_a_purge_takes_between_insert_and_look_is_too_old(
    bench: Bench, names: Names, purge_before_read: list[int]
) -> None:
    note = envelope(names(), Noted("a", "news"))
    await bench.receive(note)
    pass_time(bench, LATER)
    assert (await bench.receive_one(note)).outcome is Outcome.TOO_OLD
    assert purge_before_read == [1]
    assert await bench.entries() == ["news"]


async def test_an_action_that_a_purge_takes_before_the_undo_looks_is_unknown(
    bench: Bench, names: Names, purge_before_read: list[int]
) -> None:
    action = envelope(names(), Book("a", "salary"))
    await bench.receive(action)
    pass_time(bench, LATER)
    undo = envelope(names(bench.clock.now()), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(undo)).outcome is Outcome.UNKNOWN
    assert purge_before_read == [1]
    assert await bench.entries() == ["salary"]


async def test_a_purge_waits_for_no_transaction_on_a_row(bench: Bench, names: Names) -> None:
    notes = [envelope(names(), Noted("a")) for _ in range(2)]
    await bench.receive(*notes)
    pass_time(bench, LATER)
    async with bench.sessions.begin() as session:
        locked = select(inbox.c.id).where(inbox.c.id == notes[0].id).with_for_update()
        await session.execute(locked)
        assert await bench.inbox.purge() == 1
    assert await known(bench) == {notes[0].id}


async def test_purges_at_once_store_watermarks_one_after_the_other(
    bench: Bench, names: Names
) -> None:
    await bench.receive(*(envelope(names(), Noted("a")) for _ in range(50)))
    pass_time(bench, LATER)
    others = [Bench(bench.engine, clock=bench.clock) for _ in range(4)]
    gone = await asyncio.gather(*(each.inbox.purge() for each in others))
    assert sum(gone) == 50
    assert await known(bench) == set()


async def test_a_purge_that_knows_less_does_not_take_a_watermark_back(
    bench: Bench, names: Names, engine: AsyncEngine
) -> None:
    early, late, after = names(), names(), names()
    commands = [command(names, saga) for saga in (late, early, early)]
    for each in commands:
        await bench.receive(each)
        bench.clock.advance(1)
    pass_time(bench, LATER)
    now = bench.clock.now()

    async def purge(session: AsyncSession, settled: EndedSagas, limit: int) -> int:
        said = {"orchestrator": settled}
        return await session.run_sync(statements.purge, "bank", said, now, RETENTION, limit)

    async def purge_with_less_knowledge() -> int:
        async with bench.sessions.begin() as session:
            return await purge(session, EndedSagas(late), 10)

    async with bench.sessions() as session:
        assert await purge(session, EndedSagas(after), 2) == 2
        other = asyncio.create_task(purge_with_less_knowledge())
        await until(lambda: _locks_waited_for(engine), what="the other purge waits")
        await session.commit()
    assert await other == 1
    for each in commands:
        assert (await bench.receive_one(each)).outcome is Outcome.TOO_OLD
