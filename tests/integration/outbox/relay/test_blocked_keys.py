"""Keys that are blocked in place of a burial: order is kept until an operator decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.clock import SystemClock
from outbox.crashpoints import Crash
from outbox.lanes import BLOCKED, BUCKETS
from outbox.operations.operations import Operations
from outbox.operations.selection import Selection
from outbox.relay.relay import Relay
from outbox.relay.settings import DestinationSettings, RelaySettings
from outbox.replies import Outcome, Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.tables import DEFAULT_TABLES, outbox, outbox_held, outbox_lease, outbox_parked
from outbox.testing import FakeClock, crash_at
from outbox.transports.base import Delivery, Transport, Unacceptable
from outbox.wire.envelope import Envelope
from tests.support.databases.locks import until_it_waits
from tests.support.outbox.inboxes import Names
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    QUICK,
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
    run_until,
)
from tests.support.processes.waiting import until

ONCE = RetryPolicy(first=0.02, factor=1.0, ceiling=0.02, jitter=0.0, attempts=1)
REJECTED = Reply(Outcome.REJECTED, code="wrong-data", reason="no number")


def blocking(engine: AsyncEngine, destination: Destination, **options: Any) -> Relay:
    return make_relay(engine, destination, on_exhaustion=OnExhaustion.BLOCK_KEY, **options)


def failing(*bad: str, with_: Reply = FAILED) -> Callable[[Envelope], Reply]:
    return lambda envelope: with_ if envelope.id in bad else DONE


async def held(engine: AsyncEngine) -> list[tuple[str, str, int, datetime]]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            select(
                outbox_held.c.aggregateid,
                outbox_held.c.head_id,
                outbox_held.c.attempts,
                outbox_held.c.next_at,
            )
        )
        return [(key, head, attempts, at) for key, head, attempts, at in rows]


async def test_a_message_that_is_given_up_stays_first_and_the_later_ones_of_its_key_wait(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("bad"), message("bad"), message("good"), message("good"))
    destination = Destination(answer=failing(ids[0]))
    relay = blocking(engine, destination, retry=QUICK)

    async def is_blocked() -> bool:
        await relay.run_once()
        return [it[3] for it in await held(engine)] == [BLOCKED]

    await until(is_blocked, what="the key is blocked")
    (late,) = await commit(engine, message("bad"))
    for _ in range(5):
        await relay.run_once()
    assert destination.by_key() == {"bad": [ids[0]] * QUICK.attempts, "good": ids[2:]}
    assert await held(engine) == [("bad", ids[0], QUICK.attempts, BLOCKED)]
    found = await counts(engine)
    assert (found["outbox_parked"], found["outbox"], found["outbox_dead"]) == (2, 1, 0)
    assert late not in destination.ids


async def test_a_blocked_key_is_not_tried_by_itself(engine: AsyncEngine) -> None:
    clock = FakeClock()
    ids = await commit(engine, message("k"), message("k"))
    destination = Destination(answer=lambda _: FAILED)
    relay = blocking(engine, destination, retry=ONCE, clock=clock)
    for _ in range(5):
        await relay.run_once()
        clock.advance(3600.0)
    assert destination.ids == [ids[0]]


@pytest.mark.parametrize("answer", [REJECTED, Reply(Outcome.TOO_OLD), FAILED])
async def test_no_message_of_a_request_overtakes_one_that_blocks_its_key(
    engine: AsyncEngine, answer: Reply
) -> None:
    # A receiver goes on with the key after it has rejected one of its messages.
    ids = await commit(engine, message("k"), message("k"), message("other"), message("k"))
    destination = Destination(answer=failing(ids[0], with_=answer))
    await drain(blocking(engine, destination, retry=ONCE))
    assert destination.by_key() == {"k": [ids[0]], "other": [ids[2]]}


async def test_a_message_that_makes_every_request_unacceptable_blocks_its_key(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("k"), message("other"), message("k"))

    def refuse(envelopes: Any) -> Delivery | None:
        bad = any(each.id == ids[0] for each in envelopes)
        return Unacceptable("not readable") if bad else None

    destination = Destination(refuse=refuse)
    await drain(blocking(engine, destination))
    assert destination.by_key() == {"other": [ids[1]]}
    assert [it[:2] for it in await held(engine)] == [("k", ids[0])]


async def test_a_row_that_cannot_be_read_blocks_its_key(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"), message("other"))
    async with engine.begin() as connection:
        await connection.execute(update(outbox).where(outbox.c.id == ids[0]).values(headers="{"))
    destination = Destination()
    await drain(blocking(engine, destination))
    assert destination.by_key() == {"other": [ids[2]]}
    assert [it[:2] for it in await held(engine)] == [("k", ids[0])]
    async with engine.connect() as connection:
        parked = (await connection.scalars(select(outbox_parked.c.id))).all()
    assert sorted(parked) == sorted(ids[:2])


@pytest.mark.parametrize(
    "changes",
    [
        {"reply_to": "orchestrator", "correlation": "0190a000-0000-7000-8000-000000000001"},
        {"type": "orchestrator.reply.v1"},
    ],
)
async def test_a_message_of_a_saga_is_buried_and_never_blocks(
    engine: AsyncEngine, changes: dict[str, Any]
) -> None:
    ids = await commit(engine, message("k", **changes), message("k"))
    destination = Destination(answer=failing(ids[0]))
    await drain(blocking(engine, destination, retry=ONCE))
    assert destination.ids == ids
    found = await counts(engine)
    assert (found["outbox_dead"], found["outbox_held"]) == (1, 0)


async def test_a_key_is_blocked_also_where_relays_die_at_each_step(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"))
    clock, destination = FakeClock(), Destination(answer=failing(ids[0]))
    for life, place in enumerate(
        ("relay: after fetch, before deliver", "relay: after deliver, before settle")
    ):
        relay = blocking(engine, destination, retry=ONCE, clock=clock, owner=f"life-{life}")
        with crash_at(place), pytest.raises(Crash):
            await relay.run_once()
        await relay.aclose()
    last = blocking(engine, destination, retry=ONCE, clock=clock, owner="last")
    with crash_at("relay: after settle"), pytest.raises(Crash):
        await last.run_once()
    await last.aclose()
    await drain(blocking(engine, destination, retry=ONCE, clock=clock, owner="next"))
    assert set(destination.ids) == {ids[0]}
    assert [it[3] for it in await held(engine)] == [BLOCKED]


async def test_a_relay_without_the_policy_leaves_a_blocked_key_alone(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"))
    destination = Destination(answer=failing(ids[0]))
    await drain(blocking(engine, destination, retry=ONCE))
    other = Destination()
    await drain(make_relay(engine, other, owner="relay-2", is_dead=lambda _: True))
    assert other.ids == []


async def test_a_blocked_key_that_is_due_again_goes_on_in_its_order(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"), message("k"))
    bad = [ids[0]]
    destination = Destination(answer=lambda it: FAILED if it.id in bad else DONE)
    relay = blocking(engine, destination, retry=ONCE)
    await drain(relay)
    bad.clear()
    async with engine.begin() as connection:
        past = datetime(2001, 1, 1, tzinfo=UTC)
        await connection.execute(update(outbox_held).values(next_at=past, attempts=0))
    await run_until(relay, lambda: len(destination.ids) == 4, "the key goes on")
    assert destination.ids == [ids[0], *ids]


@dataclass
class DroppedBy(Destination):
    """The second request takes so long that an operator drops its message meanwhile."""

    operations: Operations | None = None

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        delivery = await super().deliver(envelopes)
        if self.operations is not None and len(self.requests) == 2:
            await self.operations.drop(Selection(ids=tuple(it.id for it in envelopes)))
        return delivery


async def test_a_message_that_is_dropped_during_its_last_attempt_leaves_its_key_free(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("k"), message("k"))
    operations = Operations(engine, DEFAULT_TABLES, SystemClock(), Names())
    destination = DroppedBy(answer=failing(ids[0]), operations=operations)
    relay = blocking(engine, destination, retry=replace(ONCE, attempts=2))
    await run_until(relay, lambda: ids[1] in destination.ids, "the later message goes out")
    assert destination.ids == [ids[0], *ids]
    assert await held(engine) == []


def test_a_destination_has_a_policy_of_its_own_in_place_of_the_relays() -> None:
    blocks = DestinationSettings(on_exhaustion=OnExhaustion.BLOCK_KEY)
    patient = DestinationSettings(retry=ONCE, pause_after=60.0)
    settings = RelaySettings(destinations={"ledger": blocks})
    assert settings.on_exhaustion is OnExhaustion.DEAD_LETTER_AND_CONTINUE
    assert settings.of("mail").on_exhaustion is OnExhaustion.DEAD_LETTER_AND_CONTINUE
    ledger = settings.of("ledger", patient)
    assert (ledger.on_exhaustion, ledger.retry) == (OnExhaustion.BLOCK_KEY, ONCE)
    assert settings.own("ledger", patient).pause_after == 60.0
    assert settings.of("mail", blocks).on_exhaustion is OnExhaustion.BLOCK_KEY


async def test_the_policy_is_that_of_one_destination_alone(engine: AsyncEngine) -> None:
    bad = [message("k"), message("k")]
    ids = await commit(engine, *bad, destination="ledger")
    await commit(engine, *bad, destination="mail")
    ledger, mail = (Destination(answer=failing(ids[0])) for _ in range(2))
    blocks = DestinationSettings(on_exhaustion=OnExhaustion.BLOCK_KEY)
    transports: dict[str, Transport] = {"ledger": ledger, "mail": mail}
    await drain(make_relay(engine, transports, retry=ONCE, destinations={"ledger": blocks}))
    assert (ledger.ids, mail.ids) == (ids[:1], ids)


async def test_what_is_added_behind_a_blocked_key_leaves_the_hot_table_and_keeps_its_order(
    engine: AsyncEngine,
) -> None:
    bad = await commit(engine, message("k"))
    destination = Destination(answer=lambda it: FAILED if it.id in bad else DONE)
    relay = blocking(engine, destination, retry=ONCE)
    await drain(relay)
    later = await commit(engine, message("k"), message("k"))
    (other,) = await commit(engine, message("other"))
    assert await relay._park_once() == 0.0
    assert await relay._park_once() > 0.0
    found = await counts(engine)
    assert (found["outbox"], found["outbox_parked"]) == (1, 3)
    await drain(relay)
    last = await commit(engine, message("k"))
    await relay._park_once()
    first = bad.pop()
    async with engine.begin() as connection:
        past = datetime(2001, 1, 1, tzinfo=UTC)
        await connection.execute(update(outbox_held).values(next_at=past, attempts=0))
    await run_until(relay, lambda: last[0] in destination.ids, "the key goes on")
    assert destination.ids == [first, other, first, *later, *last]


class Interrupted:
    """A connection, after whose statement of that number something else happens."""

    def __init__(
        self, connection: AsyncConnection, number: int, act: Callable[[], Awaitable[None]]
    ) -> None:
        self._connection = connection
        self._left = number
        self._act = act

    async def execute(self, *given: Any) -> Any:
        return await self._then(await self._connection.execute(*given))

    async def scalars(self, *given: Any) -> Any:
        return await self._then(await self._connection.scalars(*given))

    async def _then(self, result: Any) -> Any:
        self._left -= 1
        if not self._left:
            await self._act()
        return result


@pytest.mark.databases("postgresql")  # SQLite has one writer at a time
@pytest.mark.parametrize("number", [1, 2])
async def test_what_is_parked_while_an_operator_frees_its_key_is_not_left_behind(
    engine: AsyncEngine, number: int
) -> None:
    bad = await commit(engine, message("k"))
    destination = Destination(answer=lambda it: FAILED if it.id in bad else DONE)
    relay = blocking(engine, destination, retry=ONCE)
    await drain(relay)
    later = await commit(engine, message("k"), message("k"))
    first = bad.pop()
    destination.gate, destination.entered = asyncio.Event(), asyncio.Event()
    operator = Operations(engine, DEFAULT_TABLES, SystemClock(), Names())
    tasks: list[asyncio.Task[Any]] = []

    async def act() -> None:
        tasks.append(asyncio.create_task(operator.redrive(Selection(ids=(first,)))))
        await until_it_waits(engine, tasks[0])
        if tasks[0].done():
            tasks.append(asyncio.create_task(relay.run_once()))
            await destination.entered.wait()

    async with engine.begin() as connection:
        interrupted: Any = Interrupted(connection, number, act)
        await relay._holds.park_blocked(interrupted, "comments", BUCKETS, 500)
    destination.gate.set()
    await asyncio.gather(*tasks)
    await run_until(relay, lambda: later[-1] in destination.ids, "the key goes on")
    assert destination.ids == [first, first, *later]
    assert (await counts(engine))["outbox_parked"] == 0


async def test_a_relay_parks_nothing_of_a_bucket_that_it_has_lost(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"))
    relay = blocking(engine, Destination(answer=failing(ids[0])), retry=ONCE)
    await drain(relay)
    await commit(engine, message("k"))
    async with engine.begin() as connection:
        await connection.execute(update(outbox_lease).values(epoch=outbox_lease.c.epoch + 1))
    await relay._park_once()
    assert (await counts(engine))["outbox"] == 1
