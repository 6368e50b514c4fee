"""SQLite's one writer at a time: no turn is lost when a writer gives up, fails or disappears."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import (
    OperationalError,
    ResourceClosedError,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import sqlite
from outbox.database.sqlite_connection import Guard, GuardedConnection
from outbox.database.write_queue import WriteQueue
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.producers import business, insert, names
from tests.support.processes.waiting import until

pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture
def database_schema() -> Schema:
    return business


@pytest.fixture
def engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


@pytest.fixture
def other_process(database: Database) -> Iterator[sqlite3.Connection]:
    """A connection that takes no part in this process' turns."""
    with closing(sqlite3.connect(database.path, isolation_level=None, timeout=0)) as connection:
        yield connection


@pytest.fixture(params=["rollback", None])
def impatient(database: Database, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine whose writers give up soon, and whose pool rolls back what it gets, or does not."""
    engine = create_engine(database.sync_url, pool_reset_on_return=request.param)
    sqlite.configure(engine, busy_timeout=0.05)
    yield engine
    engine.dispose()


@pytest.mark.timeout(20)
def test_a_writer_that_waits_too_long_is_told_why(impatient: Engine) -> None:
    with impatient.begin() as first:
        insert(first, "a")
        with impatient.connect() as second:
            with pytest.raises(OperationalError, match=r"took more than 0\.05 s") as raised:
                second.begin()
            assert isinstance(raised.value.orig, sqlite3.OperationalError)
            assert raised.value.orig.sqlite_errorcode == sqlite3.SQLITE_BUSY
    with impatient.begin() as third:
        insert(third, "b")
    assert names(impatient) == ["a", "b"]


def test_a_writer_waits_for_other_processes_too(
    impatient: Engine, other_process: sqlite3.Connection
) -> None:
    other_process.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(OperationalError, match="database is locked"), impatient.begin():
            pass
    other_process.execute("ROLLBACK")
    with impatient.begin() as connection:
        insert(connection, "a")
    assert names(impatient) == ["a"]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_the_next_writer_has_its_turn_only_after_the_transaction_has_ended(
    engine: Engine, end: str
) -> None:
    next_writer = object()
    came: list[tuple[str, bool]] = []
    with engine.connect() as connection:
        transaction = connection.begin()
        insert(connection, "a")
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, GuardedConnection)
        turns = raw.guard.turns
        assert turns is not None
        turn = turns.ask(next_writer)
        # SQLite tells of a statement before it carries it out.
        raw.set_trace_callback(lambda statement: came.append((statement, turn.done())))
        if end == "COMMIT":
            transaction.commit()
        else:
            transaction.rollback()
        raw.set_trace_callback(None)
    assert came == [(end, False)]
    assert turn.done()
    turns.pass_on(next_writer)


def test_nothing_runs_in_autocommit_after_a_begin_that_failed(
    impatient: Engine, other_process: sqlite3.Connection
) -> None:
    other_process.execute("BEGIN IMMEDIATE")
    with impatient.connect() as connection:
        with pytest.raises(OperationalError, match="database is locked"):
            insert(connection, "a")
        other_process.execute("ROLLBACK")
        with pytest.raises(ResourceClosedError):
            insert(connection, "b")
    assert names(impatient) == []


async def test_a_cancelled_writer_leaves_the_queue(
    async_engine: AsyncEngine, engine: Engine
) -> None:
    async def write(name: str) -> None:
        async with async_engine.begin() as connection:
            await connection.run_sync(insert, name)

    # The pool has them all open: the driver loses one whose opening is cancelled.
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(async_engine.connect())
    async with async_engine.begin() as first:
        waiting = [asyncio.create_task(write(name)) for name in "abc"]
        await until(lambda: async_engine.sync_engine.pool.checkedout() == 4)  # type: ignore[attr-defined]  # of a QueuePool
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await first.run_sync(insert, "first")
    await asyncio.wait_for(waiting[2], 10)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert names(engine) == ["c", "first"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_writer_that_is_cancelled_at_any_moment_does_not_keep_its_turn(
    async_engine: AsyncEngine, engine: Engine, turns: int
) -> None:
    async def write(name: str) -> None:
        async with async_engine.begin() as connection:
            await connection.run_sync(insert, name)

    await write("before")
    task = asyncio.create_task(write("cancelled"))
    for _ in range(turns):
        await asyncio.sleep(0.0005)  # its thread goes on meanwhile
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(write("after"), 10)
    assert {"after", "before"} <= set(names(engine))


@pytest.mark.parametrize("reset", ["rollback", None])
async def test_a_writer_that_is_cancelled_just_when_its_turn_comes_passes_it_on(
    make_engine: MakeEngine, engine: Engine, database: Database, reset: str | None
) -> None:
    async_engine = make_engine(database, pool_reset_on_return=reset)

    async def write(name: str) -> None:
        async with async_engine.begin() as connection:
            await connection.run_sync(insert, name)

    async with async_engine.connect() as connection:  # so that connecting needs no turn below
        await connection.run_sync(insert, "dropped")
        await connection.rollback()
    turns = sqlite._turns[os.path.realpath(database.path)]
    turns.ask("the test")
    task = asyncio.create_task(write("cancelled"))
    await until(lambda: turns._waiting, what="the writer's place in the queue")
    turns.pass_on("the test")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await write("next")
    assert names(engine) == ["next"]


@pytest.mark.filterwarnings("ignore:unclosed database")
def test_a_connection_that_is_dropped_without_being_closed_does_not_keep_its_turn(
    database: Database,
) -> None:
    guard, turns = Guard(), WriteQueue()
    guard.turns = turns
    connection = GuardedConnection(str(database.path))
    connection.guard = guard
    guard.watch(connection)
    turns.ask(guard)
    following = turns.ask("next")
    assert not following.done()
    del connection
    gc.collect()
    assert following.done()


def test_a_connection_that_is_closed_or_invalidated_does_not_keep_its_turn(engine: Engine) -> None:
    closed = engine.connect()
    insert(closed, "closed")
    closed.close()
    with engine.connect() as invalidated:
        insert(invalidated, "invalidated")
        invalidated.invalidate()
        with engine.begin() as connection:
            insert(connection, "next")
        invalidated.rollback()
    assert names(engine) == ["next"]
