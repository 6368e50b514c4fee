"""A destination that is gone is paused: no attempts, no lost row, no other order; until resumed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox import dead_letters, destinations
from outbox.chassis.endpoints.backlog import standing
from outbox.clock import SystemClock
from outbox.destinations.pauses import NOTED_AFTER
from outbox.errors import InvalidSelection, OutboxError
from outbox.lanes import PAUSED, SILENT
from outbox.relay.breaker import LONGEST_PAUSE
from outbox.relay.condition import Condition
from outbox.relay.relay import Relay
from outbox.relay.settings import DestinationSettings, RelaySettings
from outbox.tables import DEFAULT_TABLES, outbox_held
from outbox.testing import FakeClock
from outbox.transports.base import Unreachable
from tests.support.databases.databases import Kind
from tests.support.databases.meeting import until_another_waits_for
from tests.support.fixtures import MakeEngine
from tests.support.outbox.relays import Destination, commit, counts, drain, make_relay, message

GONE = Unreachable("410 Gone", sent=False, gone=True)
AWAY = Unreachable("it is away", sent=False)
PAUSE_AFTER = 3 * 86_400.0


async def held(engine: AsyncEngine) -> dict[int, str]:
    """What is stored of the destination, by bucket."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(outbox_held.c.bucket, outbox_held.c.last_error))
        return {bucket: reason for bucket, reason in rows if bucket < 0}


def silent_relay(engine: AsyncEngine, destination: Any, clock: FakeClock) -> Relay:
    return Relay(
        engine,
        {"comments": destination},
        owner="relay-1",
        clock=clock,
        settings=RelaySettings(),
        chance=lambda: 0.0,
        destinations={"comments": DestinationSettings(pause_after=PAUSE_AFTER)},
    )


async def test_a_destination_that_is_gone_is_paused_and_loses_nothing(engine: AsyncEngine) -> None:
    ids = await commit(engine, *(message(key) for key in "abab"))
    refusals = iter([GONE])
    destination = Destination(refuse=lambda _: next(refusals, None))
    relay = make_relay(engine, destination)
    for _ in range(5):
        await relay.run_once()
    assert [set(asked) for asked in destination.requests] == [set(ids)], "it was asked once"
    assert relay.paused == {"comments": "it is gone: 410 Gone"}
    assert await held(engine) == {PAUSED: "it is gone: 410 Gone"}
    assert (await counts(engine))["outbox"] == 4
    async with engine.connect() as connection:
        (known,) = await standing(connection, DEFAULT_TABLES)
        assert (known.paused, known.unsent, known.held_keys, known.dead) == (True, 4, 0, 0)
        assert not (await dead_letters.list_held(connection)).items
    async with engine.begin() as connection:
        assert await destinations.resume(connection, "comments")
        assert not await destinations.resume(connection, "comments")
    await drain(relay)
    assert destination.by_key() == {"a": ids[0::2], "b": ids[1::2]}
    assert relay.paused == {}
    assert set((await counts(engine)).values()) == {0}


async def test_a_pause_survives_the_process_and_holds_for_every_relay(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("a"))
    relay = make_relay(engine, Destination(refuse=lambda _: GONE))
    await relay.run_once()
    await relay.run_once()
    await relay.aclose()
    after = Destination()
    another = make_relay(engine, after, owner="relay-2")
    for _ in range(3):
        await another.run_once()
    assert after.requests == []
    assert list(another.paused) == ["comments"]
    async with engine.begin() as connection:
        await destinations.resume(connection, "comments")
    await drain(another)
    assert after.ids == ids


async def test_an_operators_pause_holds_one_destination_and_no_other(engine: AsyncEngine) -> None:
    clock = SystemClock()
    async with engine.begin() as connection:
        assert await destinations.pause(connection, "crm", reason="they move", now=clock.now())
        assert not await destinations.pause(connection, "crm", reason="again", now=clock.now())
        (pause,) = await destinations.list_paused(connection)
    assert (pause.destination, pause.reason) == ("crm", "they move")
    crm, mail = Destination(), Destination()
    relay = make_relay(engine, {"crm": crm, "mail": mail})
    for name in ("crm", "mail"):
        await commit(engine, message("a"), destination=name)
    await drain(relay)
    assert (len(crm.ids), len(mail.ids)) == (0, 1)


@pytest.mark.parametrize(
    ("name", "reason", "error", "problem"),
    [("crm", " ", InvalidSelection, "no reason"), ("", "why", OutboxError, "no name")],
)
async def test_a_pause_that_cannot_be_is_refused(
    engine: AsyncEngine, name: str, reason: str, error: type[Exception], problem: str
) -> None:
    async with engine.begin() as connection:
        with pytest.raises(error, match=problem):
            await destinations.pause(connection, name, reason=reason, now=SystemClock().now())


async def test_of_two_pauses_at_once_the_first_stays_and_the_other_one_hears_it(
    engine: AsyncEngine, make_engine: MakeEngine, database: Any
) -> None:
    other, begun, now = make_engine(database), asyncio.Event(), SystemClock().now()

    async def first() -> bool:
        async with engine.begin() as connection:
            is_new = await destinations.pause(connection, "crm", reason="they move", now=now)
            begun.set()
            if database.kind is Kind.POSTGRESQL:
                await until_another_waits_for(connection)
            return is_new

    async def second() -> bool:
        await begun.wait()
        async with other.begin() as connection:
            return await destinations.pause(connection, "crm", reason="again", now=now)

    assert list(await asyncio.gather(first(), second())) == [True, False]
    assert await held(engine) == {PAUSED: "they move"}


async def test_a_destination_without_an_answer_for_days_is_paused_also_across_restarts(
    engine: AsyncEngine,
) -> None:
    await commit(engine, message("a"), message("a"))
    clock = FakeClock()
    away = Destination(refuse=lambda _: AWAY)
    for day in range(2):
        relay = silent_relay(engine, away, clock)
        for _ in range(3):
            await relay.run_once()
            clock.advance(NOTED_AFTER)
        await relay.aclose()
        clock.advance(20)
        assert list(await held(engine)) == [SILENT], f"on day {day}"
        # The same on PostgreSQL, whose time no test moves.
        async with engine.begin() as connection:
            since = outbox_held.c.next_at
            (was,) = (await connection.execute(select(since))).one()
            earlier = was.replace(year=was.year - 1) if day else was
            await connection.execute(update(outbox_held).values(next_at=earlier))
    relay = silent_relay(engine, away, clock)
    for _ in range(3):
        await relay.run_once()
        clock.advance(NOTED_AFTER)
    assert "it has given no answer for" in relay.paused["comments"]
    asked = len(away.requests)
    clock.advance(86_400)
    await relay.run_once()
    await relay.run_once()
    assert len(away.requests) == asked
    found = await counts(engine)
    assert (found["outbox"], found["outbox_dead"]) == (2, 0)
    async with engine.connect() as connection:
        assert not (await dead_letters.list_held(connection)).items, "no attempt was counted"


async def test_a_resumed_destination_has_its_whole_time_again(engine: AsyncEngine) -> None:
    await commit(engine, message("a"))
    clock = FakeClock()
    away = Destination(refuse=lambda _: AWAY)
    relay = silent_relay(engine, away, clock)
    await relay.run_once()
    async with engine.begin() as connection:
        await destinations.pause(connection, "comments", reason="they move", now=clock.now())
    clock.advance(2 * PAUSE_AFTER)
    await relay.run_once()
    async with engine.begin() as connection:
        await destinations.resume(connection, "comments")
    for _ in range(4):
        await relay.run_once()
        clock.advance(20)
    assert relay.paused == {}
    assert len(away.requests) >= 2


async def test_an_answer_ends_a_silence(engine: AsyncEngine) -> None:
    await commit(engine, message("a"), message("a"))
    clock, is_away = FakeClock(), True
    destination = Destination(refuse=lambda _: AWAY if is_away else None)
    relay = silent_relay(engine, destination, clock)
    for _ in range(3):
        await relay.run_once()
        clock.advance(NOTED_AFTER)
    assert list(await held(engine)) == [SILENT]
    is_away = False
    for _ in range(3):
        await relay.run_once()
    assert await held(engine) == {}
    assert len(destination.ids) == 2


async def test_a_relay_that_lost_its_leases_pauses_nothing(engine: AsyncEngine) -> None:
    await commit(engine, message("a"))
    clock = FakeClock()
    relay = silent_relay(engine, Destination(refuse=lambda _: GONE), clock)
    await relay.run_once()
    async with engine.begin() as connection:
        leases = DEFAULT_TABLES.outbox_lease
        await connection.execute(update(leases).values(epoch=leases.c.epoch + 1, owner="heir"))
    await relay._pauses.look()
    assert await held(engine) == {}
    assert relay.paused == {}


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(("pausable", "paused"), [(True, True), (False, False)])
async def test_where_no_watch_resumes_it_a_destination_that_is_gone_is_only_down(
    pausable: bool, paused: bool
) -> None:
    clock = FakeClock()
    condition = Condition("comments", clock=clock, batch=1, chance=lambda: 0.0, pausable=pausable)
    condition.gave_no_answer(object(), [], GONE, 0)
    clock.advance(LONGEST_PAUSE)
    assert (condition.blocked_for(object()) > 0) is paused
