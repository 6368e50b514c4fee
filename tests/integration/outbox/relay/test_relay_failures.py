"""What happens to messages that fail, and to destinations that are down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.replies import Outcome, Reply
from outbox.retry import RetryPolicy
from outbox.tables import outbox_dead, outbox_held
from outbox.testing import FakeClock
from outbox.transports.base import Delivery, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.outbox.accepting import AcceptingTransport
from tests.support.outbox.relays import (
    DONE,
    FAILED,
    Destination,
    commit,
    counts,
    drain,
    make_relay,
    message,
    run_until,
)
from tests.support.processes.waiting import BUSY

SLOW = RetryPolicy(first=30.0, factor=1.0, ceiling=30.0, jitter=0.0, attempts=4)


async def _held(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(outbox_held.c.aggregateid, outbox_held.c.attempts))
        return {key: attempts for key, attempts in rows}


async def test_a_failed_message_holds_its_key_and_no_other(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("bad"), message("bad"), message("good"), message("good"))
    destination = Destination(answer=lambda e: FAILED if e.key == "bad" else DONE)
    await drain(make_relay(engine, destination, retry=SLOW))
    assert destination.by_key() == {"bad": [ids[0]], "good": ids[2:]}
    assert await _held(engine) == {"bad": 1}
    assert (await counts(engine))["outbox"] == 2


async def test_the_next_request_of_a_round_does_not_overtake_a_failed_message(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, *(message("bad") for _ in range(5)))
    destination = Destination(answer=lambda e: FAILED)
    await make_relay(engine, destination, retry=SLOW, batch=1).run_once()
    assert destination.ids == [ids[0]]


async def test_a_held_message_is_tried_again_and_then_its_key_flows(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("k"), message("k"), message("k"))
    failures = iter([FAILED, FAILED])
    destination = Destination(answer=lambda e: next(failures, DONE))
    relay = make_relay(engine, destination)
    await run_until(relay, lambda: len(destination.ids) == 5, "all have arrived")
    assert destination.ids == [ids[0], ids[0], *ids]
    await drain(relay)
    assert set((await counts(engine)).values()) == {0}


async def test_a_message_that_fails_for_ever_becomes_a_dead_letter_with_its_reason(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("k"), message("k"))
    destination = Destination(answer=lambda e: FAILED if e.id == ids[0] else DONE)
    relay = make_relay(engine, destination)
    await run_until(relay, lambda: ids[1] in destination.ids, "the next one has arrived")
    assert destination.ids == [*([ids[0]] * 4), ids[1]]
    await drain(relay)
    async with engine.connect() as connection:
        dead = (await connection.execute(select(outbox_dead))).one()
    assert (dead.id, dead.attempts) == (ids[0], 4)
    assert "ValueError: no" in dead.reason
    assert await counts(engine) == {
        "outbox": 0,
        "outbox_held": 0,
        "outbox_parked": 0,
        "outbox_dead": 1,
    }


async def test_a_long_hold_parks_the_messages_and_they_come_back_in_order(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, *(message("k") for _ in range(3)))
    failures = iter([FAILED])
    destination = Destination(answer=lambda e: next(failures, DONE))
    relay = make_relay(engine, destination, park_after=0.001)
    await relay.run_once()
    assert await counts(engine) == {
        "outbox": 0,
        "outbox_held": 1,
        "outbox_parked": 3,
        "outbox_dead": 0,
    }
    ids += await commit(engine, message("k"))
    await run_until(relay, lambda: len(destination.ids) == 5, "all have arrived")
    assert destination.ids == [ids[0], *ids]


async def test_rejected_data_is_buried_at_once(engine: AsyncEngine) -> None:
    await commit(engine, message("k"))
    destination = Destination(answer=lambda e: Reply(Outcome.REJECTED, code="invalid"))
    await drain(make_relay(engine, destination, retry=SLOW))
    assert (await counts(engine))["outbox_dead"] == 1


async def test_a_locked_event_waits_and_uses_up_no_attempt(engine: AsyncEngine) -> None:
    await commit(engine, message("k"))
    locked = iter([Reply(Outcome.LOCKED, reason="saga 7")] * 8)
    destination = Destination(answer=lambda e: next(locked, DONE))
    relay = make_relay(engine, destination)
    await run_until(relay, lambda: len(destination.ids) == 9, "it got through")
    await drain(relay)
    assert set((await counts(engine)).values()) == {0}


async def test_an_outage_uses_up_no_attempt_of_any_message(engine: AsyncEngine) -> None:
    clock = FakeClock()
    down = True
    destination = Destination(
        refuse=lambda _: Unreachable("connection refused", sent=True) if down else None
    )
    ids = await commit(engine, *(message(f"k{n}") for n in range(3)))
    relay = make_relay(engine, destination, clock=clock)
    for _ in range(20):
        assert await relay.run_once() == 0
        clock.advance(16.0)
    assert len(destination.requests) == 20
    assert await _held(engine) == {}
    assert (await counts(engine))["outbox_dead"] == 0
    down = False
    clock.advance(60.0)
    for _ in range(20):
        await relay.run_once()
        clock.advance(1.0)
    assert sorted(destination.ids) == sorted(ids)


async def test_an_outage_takes_back_the_attempt_of_a_held_message(engine: AsyncEngine) -> None:
    await commit(engine, message("k"))
    down = False
    destination = Destination(
        answer=lambda e: FAILED,
        refuse=lambda _: Unreachable("connection refused", sent=False) if down else None,
    )
    relay = make_relay(engine, destination)
    await relay.run_once()
    assert await _held(engine) == {"k": 1}
    down = True
    asked = len(destination.requests)
    await run_until(relay, lambda: len(destination.requests) > asked, "it was tried again")
    assert await _held(engine) == {"k": 1}


async def test_a_destination_that_is_down_is_asked_ever_less_often(engine: AsyncEngine) -> None:
    clock = FakeClock()
    destination = Destination(refuse=lambda _: Unreachable("refused", sent=False))
    await commit(engine, message("k"))
    relay = make_relay(engine, destination, clock=clock)
    for _ in range(120):
        await relay.run_once()
        clock.advance(0.5)
    assert 5 <= len(destination.requests) <= 20


async def test_a_message_that_kills_its_receiver_is_found_and_the_others_arrive(
    engine: AsyncEngine,
) -> None:
    clock = FakeClock()
    ids = await commit(engine, *(message(f"k{n}") for n in range(40)))
    poison = ids[0]

    def refuse(envelopes: Sequence[Envelope]) -> Delivery | None:
        if poison in [each.id for each in envelopes]:
            return Unreachable("connection reset", sent=True)
        return None

    destination = Destination(refuse=refuse)
    relay = make_relay(engine, destination, clock=clock)
    for _ in range(40):
        await relay.run_once()
        clock.advance(20.0)
    assert sorted(destination.ids) == sorted(ids[1:])
    assert (await _held(engine)).keys() == {"k0"}
    # Once it silenced a destination that was answering others. Since then it is alone, and no node
    # can say whether the destination is down.
    assert (await _held(engine))["k0"] == 1


async def test_a_destination_that_is_slow_does_not_slow_the_others(engine: AsyncEngine) -> None:
    slow, quick = Destination(gate=asyncio.Event()), Destination()
    await commit(engine, message("a"), destination="slow")
    ids = await commit(engine, *(message("a") for _ in range(5)), destination="quick")
    relay = make_relay(engine, {"slow": slow, "quick": quick}, poll=0.05)
    stop = asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    async with asyncio.timeout(10 * BUSY):
        await slow.entered.wait()
        await quick.entered.wait()
        quick.entered.clear()
        ids += await commit(engine, message("a"), destination="quick")
        await quick.entered.wait()
        assert slow.ids == []
        assert slow.gate is not None
        slow.gate.set()
        stop.set()
        await running
    assert quick.ids == ids


async def test_a_transport_that_takes_too_long_counts_as_no_answer(engine: AsyncEngine) -> None:
    await commit(engine, message("a"))
    destination = Destination(gate=asyncio.Event())
    relay = make_relay(engine, destination, delivery_timeout=0.05)
    async with asyncio.timeout(10 * BUSY):
        assert await relay.run_once() == 0
    assert relay.blocked == {"comments"}
    assert (await counts(engine))["outbox"] == 1


class _Sink:
    """Notes what it is told, in a table of its own transaction: here, in memory."""

    def __init__(self, *, fails: bool = False) -> None:
        self.answers: list[tuple[str, Outcome]] = []
        self.burials: list[tuple[str, str]] = []
        self.taken: list[str] = []
        self.fails = fails

    async def replied(
        self, connection: AsyncConnection, answers: Sequence[tuple[Envelope, Reply]]
    ) -> None:
        if self.fails:
            raise OSError("the sink has no room")
        self.answers += [(envelope.id, reply.outcome) for envelope, reply in answers]

    async def accepted(self, connection: AsyncConnection, envelopes: Sequence[Envelope]) -> None:
        self.taken += [envelope.id for envelope in envelopes]

    async def buried(self, connection: AsyncConnection, envelope: Envelope, reason: str) -> None:
        self.burials.append((envelope.id, reason))


async def test_answers_go_to_the_sink_where_a_run_awaits_them(engine: AsyncEngine) -> None:
    awaited = message("a", reply_to="orchestrator")
    ids = await commit(engine, awaited, message("b"))
    sink = _Sink()
    locked = Reply(Outcome.LOCKED, reason="saga 7")
    await drain(make_relay(engine, Destination(answer=lambda e: locked), sink=sink, retry=SLOW))
    assert sink.answers == [(ids[0], Outcome.LOCKED)]
    assert await _held(engine) == {"b": 0}


async def test_a_message_stays_where_its_answer_could_not_be_kept(engine: AsyncEngine) -> None:
    await commit(engine, message("a", reply_to="orchestrator"))
    with pytest.raises(OSError, match="no room"):
        await make_relay(engine, Destination(), sink=_Sink(fails=True)).run_once()
    assert (await counts(engine))["outbox"] == 1


async def test_the_sink_is_told_of_a_burial(engine: AsyncEngine) -> None:
    ids = await commit(engine, message("a", reply_to="orchestrator"))
    sink = _Sink()
    rejected = Reply(Outcome.REJECTED, code="invalid", reason="no title")
    await drain(make_relay(engine, Destination(answer=lambda e: rejected), sink=sink))
    assert [id_ for id_, _ in sink.burials] == ids
    assert "no title" in sink.burials[0][1]


async def test_what_was_only_accepted_leaves_the_outbox_and_the_sink_hears_no_answer(
    engine: AsyncEngine,
) -> None:
    ids = await commit(engine, message("a", reply_to="orchestrator"), message("b"))
    sink, way = _Sink(), AcceptingTransport()
    await drain(make_relay(engine, way, sink=sink))
    assert sorted(each.id for each in way.taken) == sorted(ids)
    assert (sink.taken, sink.answers, sink.burials) == ([ids[0]], [], [])
    assert (await counts(engine))["outbox"] == 0
