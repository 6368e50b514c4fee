"""The relay's first promises: what is committed leaves, and in order (P1, P6)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from outbox.clock import SystemClock
from outbox.coordination.bell import Bell
from outbox.crashpoints import Crash
from outbox.errors import IsolationRefused, UnconfiguredSQLite
from outbox.relay.relay import Relay
from outbox.tables import outbox, outbox_lease, outbox_scheduled
from outbox.testing import FakeClock, crash_at
from outbox.transports.base import Unacceptable
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.relays import (
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
    put,
    row,
    run_until,
)
from tests.support.processes.waiting import BUSY, RARELY

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


async def test_a_committed_message_leaves_and_its_row_goes(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("a"), message("b"))
    destination = Destination()
    assert await drain(make_relay(engine, destination)) == 2
    assert sorted(destination.ids) == sorted(ids)
    assert (await counts(engine))["outbox"] == 0


async def test_a_rolled_back_message_never_leaves(engine: AsyncEngine) -> None:
    destination = Destination()
    relay = make_relay(engine, destination)
    async with engine.connect() as connection:
        await put(connection, message("a"))
        await connection.rollback()
    assert await drain(relay) == 0
    assert destination.ids == []


async def test_messages_of_a_key_leave_in_the_order_of_their_commits(engine: AsyncEngine) -> None:
    wanted: dict[str, list[str]] = {}
    for number in range(300):
        key = f"key-{number % 7}"
        wanted.setdefault(key, []).extend(await commit(engine, message(key)))
    destination = Destination()
    await drain(make_relay(engine, destination, batch=16, fetch=40))
    assert destination.by_key() == wanted


@pytest.mark.databases("postgresql")
async def test_a_number_that_commits_late_is_not_skipped(engine: AsyncEngine) -> None:
    destination = Destination()
    relay = make_relay(engine, destination, sweep=3600.0)
    async with engine.connect() as slow:
        early = await put(slow, message("slow"))
        for _ in range(3):
            await commit(engine, message("slow"), message("other"))
            await drain(relay)
        await slow.commit()
    await drain(relay)
    assert early[0] in destination.ids
    assert len(destination.ids) == 7


@pytest.mark.databases("postgresql")
async def test_a_floor_never_passes_a_number_whose_transaction_is_open(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    destination = Destination()
    relay = make_relay(engine, destination, clock=clock, sweep=3600.0)
    async with engine.connect() as slow:
        early = await put(slow, message("k"))
        for _ in range(6):
            # Marks are taken once a second, and proven by the next one.
            clock.advance(1.5)
            await commit(engine, message("k"))
            await drain(relay)
        await slow.commit()
    await drain(relay)
    assert early[0] in destination.ids


@pytest.mark.databases("postgresql")
async def test_the_very_first_number_is_not_taken_for_one_that_is_settled(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    destination = Destination()
    relay = make_relay(engine, destination, clock=clock, sweep=3600.0)
    for _ in range(4):
        clock.advance(1.5)
        await relay.run_once()
    ids = await commit(engine, message("k"))
    await drain(relay)
    assert destination.ids == ids


@pytest.mark.databases("postgresql")
async def test_a_floor_rises_over_what_was_sent(engine: AsyncEngine) -> None:
    clock = FakeClock()
    relay = make_relay(engine, Destination(), clock=clock, sweep=3600.0)
    floors: list[int] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(
        _c: object, _cur: object, statement: str, given: tuple[object, ...], *_: object
    ) -> None:
        if "WITH ORDINALITY" in statement:
            lists = [each for each in given if isinstance(each, list)]
            floors.append(max(lists[1]))

    for _ in range(5):
        clock.advance(1.5)
        await commit(engine, *(message(f"k{n}") for n in range(40)))
        await drain(relay)
    assert floors[0] == 0
    assert floors[-1] >= 80


async def test_the_urgent_lane_leaves_first(engine: AsyncEngine) -> None:
    normal = await commit(engine, *(message(f"k{n}") for n in range(50)))
    urgent = await commit(engine, message("undo", urgent=True))
    destination = Destination()
    await make_relay(engine, destination, width=1).run_once()
    assert destination.ids[0] == urgent[0]
    assert set(destination.ids[1:]) <= set(normal)


async def test_nothing_is_updated_on_the_way_of_a_message(engine: AsyncEngine) -> None:
    relay = make_relay(engine, Destination())
    await drain(relay)
    await commit(engine, *(message(f"k{n}") for n in range(20)))
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_c: object, _cur: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0].upper())

    assert await relay.run_once() == 20
    assert "UPDATE" not in statements
    assert "INSERT" not in statements
    assert statements.count("DELETE") == 1


@pytest.mark.parametrize(
    ("point", "delivered"),
    [
        ("relay: after fetch, before deliver", 1),
        ("relay: after deliver, before settle", 2),
        ("relay: after settle", 1),
    ],
)
async def test_a_relay_that_dies_loses_nothing(
    engine: AsyncEngine, point: str, delivered: int
) -> None:
    ids = await commit(engine, message("a"))
    destination = Destination()
    with crash_at(point), pytest.raises(Crash):
        await make_relay(engine, destination, owner="dead").run_once()
    async with engine.begin() as connection:  # its lease has run out by now
        await connection.execute(outbox_lease.update().values(expires_at=LONG_AGO))
    await drain(make_relay(engine, destination, owner="next"))
    assert destination.ids == ids * delivered
    assert (await counts(engine))["outbox"] == 0


async def test_a_scheduled_message_leaves_when_it_is_due(engine: AsyncEngine) -> None:
    clock = SystemClock()
    now = clock.now()
    bucket, envelope = message("a")
    later_bucket, later = message("b")
    async with engine.begin() as connection:
        await connection.execute(
            outbox_scheduled.insert(),
            [
                {**row(bucket, envelope, "comments"), "due_at": now},
                {**row(later_bucket, later, "comments"), "due_at": now.replace(year=now.year + 1)},
            ],
        )
    destination = Destination()
    await drain(make_relay(engine, destination))
    assert destination.ids == [envelope.id]
    async with engine.connect() as connection:
        left = (await connection.scalars(select(outbox_scheduled.c.id))).all()
    assert left == [later.id]


async def test_a_row_that_was_broken_by_hand_is_buried_and_the_next_one_leaves(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("a"), message("a"))
    async with engine.begin() as connection:
        await connection.execute(
            outbox.update().where(outbox.c.id == ids[0]).values(headers="not JSON")
        )
    destination = Destination()
    await drain(make_relay(engine, destination))
    assert destination.ids == [ids[1]]
    assert await counts(engine) == {
        "outbox": 0,
        "outbox_held": 0,
        "outbox_parked": 0,
        "outbox_dead": 1,
    }


@pytest.mark.parametrize("reason", ["400: no", "400: a\0b", "400: \ud800"])
async def test_one_message_that_the_destination_cannot_take_is_found_and_buried(
    engine: AsyncEngine, reason: str
) -> None:
    ids = await commit(engine, *(message(f"k{n}") for n in range(9)))
    bad = ids[4]
    destination = Destination(
        refuse=lambda envelopes: (
            Unacceptable(reason) if bad in [each.id for each in envelopes] else None
        )
    )
    await drain(make_relay(engine, destination))
    assert sorted(destination.ids) == sorted(set(ids) - {bad})
    assert (await counts(engine))["outbox_dead"] == 1


async def test_the_bell_wakes_a_running_relay(engine: AsyncEngine) -> None:
    bell = Bell()
    destination = Destination()
    relay = make_relay(engine, destination, bell=bell, poll=RARELY)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    first = await commit(engine, message("a"))
    async with asyncio.timeout(10 * BUSY):
        await destination.entered.wait()
        destination.entered.clear()
        second = await commit(engine, message("a"))
        bell.ring()
        await destination.entered.wait()
        stop.set()
        await running
    assert destination.ids == first + second
    assert (await counts(engine))["outbox"] == 0


async def test_a_relay_that_stops_gives_its_leases_back(engine: AsyncEngine) -> None:
    relay = make_relay(engine, Destination(), owner="first")
    await relay.run_once()
    await relay.aclose()
    ids = await commit(engine, message("a"))
    destination = Destination()
    assert await drain(make_relay(engine, destination, owner="second")) == 1
    assert destination.ids == ids
    async with engine.connect() as connection:
        owners = set((await connection.scalars(select(outbox_lease.c.owner))).all())
    assert {owner.partition("@")[0] for owner in owners} == {"second"}


@pytest.mark.databases("sqlite")
async def test_a_sqlite_engine_that_was_not_configured_is_refused(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/plain.db")
    with pytest.raises(UnconfiguredSQLite, match=r"outbox\.sqlite\.configure"):
        Relay(engine, {}, owner="x", clock=SystemClock())
    await engine.dispose()


async def test_a_relay_that_only_polls_finds_messages_too(engine: AsyncEngine) -> None:
    destination = Destination()
    relay = make_relay(engine, destination)
    await relay.run_once()
    ids = await commit(engine, message("a"))
    await run_until(relay, lambda: destination.ids, "the message has arrived")
    assert destination.ids == ids


@pytest.mark.databases("postgresql")
async def test_a_relay_sees_what_others_committed_at_every_level_of_its_engine(
    make_engine: MakeEngine, database: Database
) -> None:
    """Fences, leases and takeovers would otherwise fail on every row that changed meanwhile."""
    engine = make_engine(database, isolation_level="SERIALIZABLE")
    levels: set[str] = set()
    look = text("SELECT current_setting('transaction_isolation')")

    @event.listens_for(engine.sync_engine, "commit")
    def at_commit(connection: Connection) -> None:
        levels.add(str(connection.scalar(look)))

    await commit(engine, message("a"))
    levels.clear()
    destination = Destination()
    assert await drain(make_relay(engine, destination)) == 1
    assert levels == {"read committed"}
    with pytest.raises(IsolationRefused, match="has the execution option isolation_level='SERI"):
        make_relay(engine.execution_options(isolation_level="SERIALIZABLE"), destination)
