"""A group commit in one statement: all of it or nothing, also among other rows, and also when
its answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, make_url, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator import tables
from orchestrator.definition.registry import Registry
from orchestrator.engine.ports import EnginePorts
from orchestrator.machine import machine
from orchestrator.machine.transition import Entry, Happening
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.store import outgoing
from orchestrator.store.commit_parts import Writes
from orchestrator.store.commit_statements import DoesNotFit
from orchestrator.store.records import Record
from orchestrator.store.sharding import LEASED_AS, SHARDS, shard_of
from orchestrator.store.start_store import StartKey
from outbox import tables as library
from outbox.clock import SystemClock
from outbox.contract import SagaEnded
from outbox.database.address.poolers import unprepared
from outbox.database.engines import by_statement
from outbox.ids import compose
from tests.support.databases.databases import Database
from tests.support.databases.locks import until_it_waits
from tests.support.fixtures import MakeEngine

pytestmark = pytest.mark.databases("postgresql")
STEPPED, BEGUN, ANOTHER, ARTICLE, BATCH, START = (
    compose(1_900_000_000_000, number) for number in range(6)
)
EPOCHS = dict.fromkeys(SHARDS, 1)


@dataclass
class Prepared:
    """A database with a run, and a commit in which that run takes a step and another one begins."""

    engine: AsyncEngine
    ports: EnginePorts
    now: datetime
    writes: Writes

    async def commit(self) -> Mapping[str, int]:
        """Make the commit. Returns the numbers of its messages."""
        async with by_statement(self.engine).connect() as connection:
            _, seqs = await self.ports.statements.commit_at_once(
                connection, BATCH, EPOCHS, self.writes, self.now, idle=2.0
            )
        return seqs

    async def was_committed(self) -> bool:
        """Look for the commit."""
        async with self.engine.begin() as connection:
            return await self.ports.statements.was_committed(connection, BATCH)

    async def rows(self) -> Sequence[Sequence[Any]]:
        """All that a commit may write."""
        written = (
            *(tables.saga, tables.saga_history, tables.saga_batch, library.outbox),
            *(tables.saga_signal, tables.saga_start_key),
        )
        async with self.engine.connect() as connection:
            return [(await connection.execute(select(it))).all() for it in written]


DRIVERS = {
    "asyncpg": ("postgresql+asyncpg", {}),
    "asyncpg for a pooler": ("postgresql+asyncpg", unprepared("asyncpg")),
    "psycopg": ("postgresql+psycopg", {}),
    "psycopg for a pooler": ("postgresql+psycopg", unprepared("psycopg")),
}


@pytest.fixture(params=DRIVERS)
def engine(request: Any, database: Database, make_engine: MakeEngine) -> AsyncEngine:
    scheme, arguments = DRIVERS[request.param]
    url = make_url(database.url).set(drivername=scheme).render_as_string(hide_password=False)
    return make_engine(replace(database, url=url), connect_args=arguments)


def begun(saga_id: str, article: str, now: datetime) -> Record:
    transition = machine.start(delete_article, saga_id, Deletion(article), now)
    return Record(transition.instance).after(transition, now)


@pytest.fixture
async def prepared(engine: AsyncEngine) -> Prepared:
    registry = Registry([delete_article], dict.fromkeys(("articles", "comments"), ""))
    ports = EnginePorts.of(engine, registry, SystemClock())
    async with engine.begin() as connection:
        now = await ports.runs.now(connection)
        leases = [
            {"destination": LEASED_AS, "bucket": it, "epoch": 1, "expires_at": now, "owner": "me"}
            for it in SHARDS
        ]
        await connection.execute(insert(library.outbox_lease), leases)
        stored = begun(STEPPED, ARTICLE, now)
        await ports.statements.insert(connection, [stored], now)
        asked = await ports.signals.ask(connection, BEGUN, shard_of(BEGUN), "start", "{}")
    line = Entry(now, Happening.SENT, "a command")
    message = outgoing.ended(
        SagaEnded(STEPPED, "COMPLETED"),
        *("articles", stored.shard, now),
        start_id=START,
        trace=stored.traceparent,
        source="orchestrator",
    )
    writes = Writes(
        begun=[begun(BEGUN, compose(1_900_000_000_000, 9), now)],
        keys=[StartKey("delete-article", "mine", b"f" * 32, BEGUN)],
        applied=[asked],
        unknown=[BEGUN],
        records=[replace(stored, revision=1, entries=stored.entries + 1)],
        history=[(STEPPED, stored.entries + 1, line)],
        messages=[message],
        alone=[STEPPED],
    )
    return Prepared(engine, ports, now, writes)


async def test_all_of_it_is_written_where_it_fits(prepared: Prepared) -> None:
    seqs = await prepared.commit()
    runs, lines, batches, messages, signals, keys = await prepared.rows()
    assert sorted((it.id, it.revision) for it in runs) == [(STEPPED, 2), (BEGUN, 1)]
    assert [it.saga_id for it in lines] == [STEPPED]
    assert [it.id for it in batches] == [BATCH]
    assert {it.id: it.seq for it in messages} == seqs
    assert len(seqs) == 1
    assert signals == []
    assert [StartKey(*it) for it in keys] == prepared.writes.keys
    assert prepared.writes.sizes.keys() == {STEPPED, BEGUN}


# What does not fit


async def another_owns_a_shard(_: Prepared, connection: AsyncConnection) -> None:
    await connection.execute(
        update(library.outbox_lease).where(library.outbox_lease.c.bucket == 7).values(epoch=2)
    )


async def another_wrote_the_run(_: Prepared, connection: AsyncConnection) -> None:
    await connection.execute(update(tables.saga).values(revision=2))


async def the_line_is_there(prepared: Prepared, connection: AsyncConnection) -> None:
    ((_, number, entry),) = prepared.writes.history
    line = {"saga_id": STEPPED, "number": number, "at": entry.at, "happening": "sent", "detail": ""}
    await connection.execute(insert(tables.saga_history), [line])


async def the_new_run_is_there(prepared: Prepared, connection: AsyncConnection) -> None:
    await prepared.ports.statements.insert(connection, prepared.writes.begun, prepared.now)


async def another_run_has_the_key(prepared: Prepared, connection: AsyncConnection) -> None:
    run = begun(ANOTHER, prepared.writes.begun[0].instance.key, prepared.now)
    assert await prepared.ports.statements.insert(connection, [run], prepared.now)


async def another_start_has_the_idempotency_key(
    prepared: Prepared, connection: AsyncConnection
) -> None:
    (key,) = prepared.writes.keys
    await prepared.ports.starts.claim_keys(connection, [replace(key, saga_id=ANOTHER)])


async def the_run_has_an_alias(prepared: Prepared, connection: AsyncConnection) -> None:
    await add_alias(prepared, connection, ANOTHER, of=STEPPED)


async def the_new_run_is_an_alias(prepared: Prepared, connection: AsyncConnection) -> None:
    await add_alias(prepared, connection, BEGUN, of=ANOTHER)


async def add_alias(
    prepared: Prepared, connection: AsyncConnection, alias: str, *, of: str
) -> None:
    await prepared.ports.starts.add_alias(
        connection,
        alias,
        saga_id=of,
        originator="articles",
        reason=None,
        trace=None,
        start_id=None,
        fingerprint=None,
    )


async def it_was_looked_for(prepared: Prepared, connection: AsyncConnection) -> None:
    assert not await prepared.ports.statements.was_committed(connection, BATCH)


async def its_time_is_behind(prepared: Prepared, _: AsyncConnection) -> None:
    prepared.now -= timedelta(minutes=1)


async def its_time_is_ahead(prepared: Prepared, _: AsyncConnection) -> None:
    prepared.now += timedelta(minutes=1)


Disturb = Callable[[Prepared, AsyncConnection], Awaitable[None]]


@pytest.mark.parametrize(
    "disturb",
    [
        another_owns_a_shard,
        another_wrote_the_run,
        the_line_is_there,
        the_new_run_is_there,
        another_run_has_the_key,
        another_start_has_the_idempotency_key,
        the_run_has_an_alias,
        the_new_run_is_an_alias,
        it_was_looked_for,
        its_time_is_behind,
        its_time_is_ahead,
    ],
    ids=lambda it: it.__name__,
)
async def test_nothing_of_it_is_written_where_any_of_it_does_not_fit(
    prepared: Prepared, disturb: Disturb
) -> None:
    async with prepared.engine.begin() as connection:
        await disturb(prepared, connection)
    before = await prepared.rows()
    with pytest.raises(DoesNotFit):
        await prepared.commit()
    assert await prepared.rows() == before


# Others meanwhile


@pytest.mark.parametrize("takes_it", [True, False])
async def test_it_waits_for_a_takeover_and_writes_only_where_that_came_to_nothing(
    prepared: Prepared, takes_it: bool
) -> None:
    async with prepared.engine.connect() as another:
        await another_owns_a_shard(prepared, another)
        committing = asyncio.create_task(prepared.commit())
        await until_it_waits(prepared.engine, committing)
        assert not committing.done()
        await (another.commit() if takes_it else another.rollback())
        async with asyncio.timeout(10):
            (outcome,) = await asyncio.gather(committing, return_exceptions=True)
    assert isinstance(outcome, DoesNotFit) is takes_it
    assert len((await prepared.rows())[0]) == (1 if takes_it else 2)


@pytest.mark.parametrize("writes_it", [True, False])
async def test_it_waits_for_a_transaction_that_holds_its_run(
    prepared: Prepared, writes_it: bool
) -> None:
    async with prepared.engine.connect() as another:
        await another_wrote_the_run(prepared, another)
        committing = asyncio.create_task(prepared.commit())
        await until_it_waits(prepared.engine, committing)
        await (another.commit() if writes_it else another.rollback())
        async with asyncio.timeout(10):
            (outcome,) = await asyncio.gather(committing, return_exceptions=True)
    assert isinstance(outcome, DoesNotFit) is writes_it


# Its unknown outcome


async def test_a_look_tells_that_it_was_committed(prepared: Prepared) -> None:
    await prepared.commit()
    assert [await prepared.was_committed() for _ in range(2)] == [True, True]


async def test_a_look_whose_own_answer_was_lost_can_be_made_again(prepared: Prepared) -> None:
    assert [await prepared.was_committed() for _ in range(3)] == [False, False, False]
    with pytest.raises(DoesNotFit):
        await prepared.commit()


async def test_a_look_agrees_with_what_becomes_of_a_commit_that_waits(prepared: Prepared) -> None:
    """Whether it has written its id by then is PostgreSQL's choice."""
    async with prepared.engine.connect() as another:
        await another_wrote_the_run(prepared, another)
        committing = asyncio.create_task(prepared.commit())
        await until_it_waits(prepared.engine, committing)
        looking = asyncio.create_task(prepared.was_committed())
        await asyncio.wait({looking}, timeout=0.3)  # it may wait too
        await another.rollback()
        async with asyncio.timeout(10):
            outcome, found = await asyncio.gather(committing, looking, return_exceptions=True)
    assert found is (not isinstance(outcome, DoesNotFit))
    assert len((await prepared.rows())[0]) == (2 if found else 1)


async def test_the_id_of_a_commit_that_never_was_is_kept_for_a_day(prepared: Prepared) -> None:
    statements = prepared.ports.statements
    assert not await prepared.was_committed()
    async with prepared.engine.begin() as connection:
        await statements.forget_batches(connection, timedelta(hours=-23))
    with pytest.raises(DoesNotFit):
        await prepared.commit()
    async with prepared.engine.begin() as connection:
        await statements.forget_batches(connection, timedelta(hours=-25))
        assert not (await connection.execute(select(tables.saga_batch))).all()
