"""Several processes of one service on PostgreSQL: the one that has the leases hears at once of what
another one has committed. Their relays look by themselves only every ten minutes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.coordination import wake_ups
from outbox.database.sqlalchemy_internals import await_
from outbox.relay.settings import RelaySettings
from outbox.transports.base import Answered, Delivery
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.inboxes import Noted, ledger_schema
from tests.support.outbox.services import NOWHERE, make_plain_service, make_service
from tests.support.outbox.wake_ups import by, ear, end_listeners, listeners
from tests.support.processes.waiting import RARELY, until

pytestmark = pytest.mark.databases("postgresql")

WOKEN = RelaySettings(lease=3 * RARELY, poll=RARELY)
"""No relay looks by itself while the test lasts, and none gives leases back."""


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


class Press:
    """A peer that takes all that comes."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        self.taken += [it.key for it in envelopes]
        return Answered([outbox.Reply(outbox.Outcome.DONE)] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def add(service: outbox.Service, key: str) -> None:
    """Commit a message."""
    async with service.sessions.begin() as session:
        outbox.add(session, Noted(key, "an event"), to="press")


@asynccontextmanager
async def process(
    engine: Any, press: Press, *, relay: RelaySettings = WOKEN
) -> AsyncIterator[outbox.Service]:
    """A process of the service, which sends to the press by itself."""
    options: dict[str, Any] = {"peers": {"press": NOWHERE}, "transports": {"press": press}}
    service = make_service(engine, relay=relay, **options)
    async with service.running():
        yield service


@asynccontextmanager
async def sender(engine: AsyncEngine, press: Press) -> AsyncIterator[outbox.Service]:
    """The first process, once it has all leases."""
    async with process(engine, press) as service:
        await add(service, "first")
        await until(lambda: press.taken == ["first"], what="it sends")
        await until(partial(listening, engine, 1), what="it listens")
        yield service


async def listening(engine: AsyncEngine, count: int) -> bool:
    """Whether so many processes listen."""
    return len(await listeners(engine)) == count


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_what_one_process_commits_the_one_with_the_leases_sends_at_once(
    database: Database, engine: AsyncEngine, make_engine: MakeEngine, driver: str
) -> None:
    press, idle = Press(), Press()
    there, here = (make_engine(by(driver, database)) for _ in "ab")
    async with sender(there, press), process(here, idle) as writer:
        await until(partial(listening, engine, 2), what="both listen")
        await add(writer, "a")
        await until(lambda: "a" in press.taken, what="a is sent")
        await add(writer, "b")
        await until(lambda: "b" in press.taken, what="b is sent")
        await end_listeners(engine)
        await until(partial(listening, engine, 2), what="both listen again")
        await add(writer, "c")
        await until(lambda: "c" in press.taken, what="c is sent after the connections were lost")
    assert press.taken == ["first", "a", "b", "c"]
    assert idle.taken == []


async def test_a_synchronous_service_wakes_the_others_too(
    database: Database,
    engine: AsyncEngine,
    make_engine: MakeEngine,
    make_sync_engine: MakeSyncEngine,
) -> None:
    press, idle = Press(), Press()
    plain = make_plain_service(
        make_sync_engine(database),
        peers={"press": NOWHERE},
        transports={"press": idle},
        relay=WOKEN,
    )

    def commit() -> None:
        with plain.sessions.begin() as session:
            outbox.add(session, Noted("a", "an event"), to="press")

    async with sender(make_engine(database), press), plain.running():
        await until(partial(listening, engine, 2), what="both listen")
        await asyncio.to_thread(commit)
        await until(lambda: "a" in press.taken, what="it is sent")
    assert idle.taken == []


async def test_a_notification_comes_after_the_commit_and_on_another_connection(
    database: Database, engine: AsyncEngine, make_engine: MakeEngine
) -> None:
    press, idle, here = Press(), Press(), make_engine(database)
    statements: list[str] = []
    at_commit: list[tuple[int, int]] = []
    writers: set[int] = set()
    writing: list[Any] = []

    async with (
        sender(make_engine(database), press),
        process(here, idle) as writer,
        ear(engine) as heard,
    ):
        await until(partial(listening, engine, 3), what="both listen, beside the test")
        await until(lambda: writer.bell.rings, what="the writer has rung because it listens")
        rings = writer.bell.rings

        @event.listens_for(here.sync_engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
            statements.append(statement)

        @event.listens_for(here.sync_engine, "commit")
        def before_the_commit(connection: Any) -> None:
            if connection not in writing:
                return  # its relay commits, too
            # One that was given too early has the time of this statement to come; the bell, which
            # gives them, needs none.
            await_(asked())
            at_commit.append((len(heard.pids), writer.bell.rings - rings))

        async def asked() -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(0.2)"))

        heard.pids.clear()
        async with writer.sessions.begin() as session:
            outbox.add(session, Noted("a", "an event"), to="press")
            writers.add(await session.scalar(text("SELECT pg_backend_pid()")) or 0)
            writing.append((await session.connection()).sync_connection)
        await until(lambda: "a" in press.taken, what="it is sent")
        assert at_commit == [(0, 0)], "before the commit there is nothing to look for"
        await until(lambda: heard.pids, what="the test hears of it, too")
    assert not writers & set(heard.pids)
    assert any("INSERT" in it for it in statements)
    assert not [it for it in statements if "notify" in it.lower()]


async def test_the_only_process_notifies_no_other(
    database: Database, engine: AsyncEngine, make_engine: MakeEngine
) -> None:
    press, idle = Press(), Press()
    async with sender(make_engine(database), press) as only, ear(engine) as heard:
        await add(only, "own")
        await until(lambda: "own" in press.taken, what="it is sent")
        async with process(make_engine(database), idle) as writer:
            await add(writer, "other")
            await until(lambda: "other" in press.taken, what="it is sent")
            await until(lambda: heard.pids, what="the test hears of it, too")
            mine = set(heard.pids)
            await add(only, "own again")
            await until(lambda: "own again" in press.taken, what="it is sent")
            await add(writer, "last")
            await until(lambda: "last" in press.taken, what="it is sent")
    assert len(mine) == 1, "the process without leases"
    assert set(heard.pids) == mine


async def test_where_no_notification_comes_a_relay_looks_by_itself(
    database: Database,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none(*_: object) -> None:
        raise ConnectionRefusedError("no connection to spare")

    monkeypatch.setattr(wake_ups, "notifications", none)
    monkeypatch.setattr(wake_ups, "_FIRST_PAUSE", 0.01)
    press, idle = Press(), Press()
    quick = RelaySettings(lease=90.0, poll=0.2)
    async with (
        process(make_engine(database), press, relay=quick) as first,
        process(make_engine(database), idle, relay=quick) as second,
    ):
        await add(first, "first")
        await until(lambda: press.taken or idle.taken, what="it is sent")
        taken = press.taken or idle.taken
        await add(second if taken is press.taken else first, "a")
        await until(lambda: "a" in taken, what="it is sent by the one with the leases")
        assert not first.progress.stuck()
        assert first.is_carrying
    told = [it for it in caplog.messages if "not woken" in it]
    assert len(told) == 2, "each process tells it once, however often it tries"
