"""Operators see what is held, have it tried again, and drop it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.errors import BelongsToSaga, InvalidSelection, NoSuchMessage
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.transports.brokers.held import operators
from outbox.transports.brokers.held.operators import HeldMessage, Selection
from outbox.transports.brokers.held.rows import State
from outbox.wire.envelope import to_structured
from tests.support.outbox.holding import RIGHT, SAGA, HoldingBench, Trouble, entry_of, unread
from tests.support.outbox.inboxes import Book, handling

AWAITED: dict[str, Any] = {
    "source": "orchestrator",
    "reply_to": "orchestrator",
    "correlation": SAGA,
}


async def _listed(bench: HoldingBench, **chosen: Any) -> list[HeldMessage]:
    async with bench.sessions() as session:
        page = await operators.list_held(session, Selection(**chosen))
        return list(page.items)


async def _redrive(bench: HoldingBench, **chosen: Any) -> int:
    async with bench.sessions.begin() as session:
        return await operators.redrive(session, Selection(**chosen), now=bench.clock.now())


async def _drop(bench: HoldingBench, **chosen: Any) -> int:
    async with bench.sessions.begin() as session:
        return await operators.drop(session, Selection(**chosen), now=bench.clock.now())


async def test_they_are_listed_in_their_order_page_by_page(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(*(bench.note(f"note {n}", f"account {n}") for n in range(5)))
    cursor, seen = None, []
    async with bench.sessions() as session:
        while True:
            page = await operators.list_held(session, limit=2, cursor=cursor)
            seen += [it.key for it in page.items]
            if (cursor := page.next_cursor) is None:
                break
        with pytest.raises(InvalidSelection):
            await operators.list_held(session, cursor="nonsense")
    assert seen == [f"account {n}" for n in range(5)]


async def test_each_says_what_it_is_and_why_it_is_held(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    note, command = bench.note("first"), bench.new(Book("bob"), **AWAITED)
    await bench.hold(note, command)
    await bench.table.hold([unread(b"what?")])
    first, second, third = await _listed(bench)
    assert (first.id, first.type, first.key, first.source, first.saga, first.undo_lane) == (
        *(note.id, note.type, "ada", "sender", None),
        False,
    )
    assert (first.queue, first.partition, first.consumer) == ("bank", 3, "bank")
    assert first.state is State.WAITING
    assert first.next_at is not None
    assert "poison" in first.last_error
    assert (second.saga, second.source) == (SAGA, "orchestrator")
    assert (third.id, third.type, third.key, third.source) == (None, None, None, None)
    assert (third.state, third.body, third.last_error) == (State.DEAD, b"what?", "it is not signed")


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"type": "press.noted.v1"}, ["first", "second"]),
        ({"key": "ada"}, ["first"]),
        ({"key": "ada", "type": "press.listed.v1"}, []),
        ({"source": "orchestrator"}, ["an entry"]),
        ({"state": State.DEAD}, ["unread"]),
        ({"consumer": "another"}, []),
        ({}, ["first", "second", "an entry", "unread"]),
    ],
)
async def test_they_are_found_by_what_they_are(
    engine: AsyncEngine, chosen: dict[str, Any], found: list[str]
) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second", "bob"))
    await bench.hold(bench.new(Book("eve"), **AWAITED))
    await bench.table.hold([unread(b"what?")])
    assert [entry_of(it.body) for it in await _listed(bench, **chosen)] == found


async def test_they_are_counted_by_state_with_the_age_of_the_oldest(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"))
    await bench.table.hold([unread(b"what?")])
    async with bench.sessions() as session:
        waiting, blocked, dead = await operators.count_held(session, "bank")
    first = (await bench.rows())[0]
    assert (waiting.state, waiting.count, waiting.oldest) == (State.WAITING, 2, first["held_at"])
    assert (blocked.state, blocked.count, blocked.oldest) == (State.BLOCKED, 0, None)
    assert (dead.state, dead.count) == (State.DEAD, 1)


async def test_what_was_given_up_is_tried_again_with_all_its_attempts(engine: AsyncEngine) -> None:
    trouble = Trouble("first")
    bench = HoldingBench(engine, trouble.handlers())
    await bench.hold(bench.note("first"))
    await bench.work(rounds=2)
    assert await bench.standing() == {"first": ("dead", 3)}
    assert await _redrive(bench, state=State.DEAD) == 1
    assert await _redrive(bench, state=State.DEAD) == 0
    assert await bench.standing() == {"first": ("waiting", 0)}
    assert await bench.pause() == 0
    await bench.worker.run_once()
    assert await bench.standing() == {"first": ("waiting", 1)}
    trouble.poison.clear()
    assert await _redrive(bench, key="ada") == 1
    await bench.worker.run_once()
    assert await bench.entries() == ["first"]


async def test_what_comes_back_takes_its_place_before_what_was_held_later(
    engine: AsyncEngine,
) -> None:
    trouble = Trouble("first", "second")
    bench = HoldingBench(engine, trouble.handlers())
    await bench.hold(bench.note("first"), attempts=2)
    await bench.work()
    await bench.hold(bench.note("second"), bench.note("third"))
    trouble.poison.clear()
    assert await _redrive(bench, state=State.DEAD) == 1
    turns = [row["next_at"] is not None for row in await bench.rows()]
    assert turns == [True, False, False]
    await bench.worker.run_once()
    assert await bench.entries() == ["first", "second", "third"]


async def test_a_blocked_key_goes_on_once_its_first_is_redriven(engine: AsyncEngine) -> None:
    trouble = Trouble("first")
    bench = HoldingBench(engine, trouble.handlers(), on_exhaustion=OnExhaustion.BLOCK_KEY)
    await bench.hold(bench.note("first"), bench.note("second"), attempts=2)
    await bench.work()
    assert await bench.standing() == {"first": ("blocked", 3), "second": ("waiting", 2)}
    trouble.poison.clear()
    assert await _redrive(bench, type="press.noted.v1") == 1
    await bench.worker.run_once()
    assert await bench.entries() == ["first", "second"]


async def test_the_rest_of_a_key_goes_on_once_its_first_is_dropped(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, Trouble("first").handlers(), on_exhaustion=OnExhaustion.BLOCK_KEY)
    await bench.hold(bench.note("first"), bench.note("second"), bench.note("other", "bob"))
    await bench.work(rounds=2)
    assert await _drop(bench, state=State.BLOCKED) == 1
    await bench.worker.run_once()
    assert sorted(await bench.entries()) == ["other", "second"]
    assert await bench.rows() == []


async def test_what_was_held_before_a_moment_can_be_dropped(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"))
    (first,) = await _listed(bench)
    assert await _drop(bench, before=first.held_at) == 0
    with pytest.raises(InvalidSelection, match="time zone"):
        await _drop(bench, before=first.held_at.replace(tzinfo=None))
    assert await _drop(bench, before=first.held_at + timedelta(seconds=1)) == 1


async def test_one_in_the_middle_of_its_key_can_be_dropped(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"), bench.note("third"))
    _, second, _ = await _listed(bench)
    assert await _drop(bench, seqs=[second.seq]) == 1
    await bench.work()
    assert await bench.entries() == ["first", "third"]


async def test_commands_of_sagas_are_left_to_their_sagas(engine: AsyncEngine) -> None:
    def fail(command: Book, _: Any) -> Any:
        raise ValueError("poison")

    bench = HoldingBench(engine, handling(fail))
    await bench.hold(bench.new(Book("ada"), **AWAITED), attempts=1)
    (waiting,) = await _listed(bench)
    with pytest.raises(BelongsToSaga, match=r"waits for its answer.*skip or cancel"):
        await _drop(bench, seqs=[waiting.seq])
    assert await _drop(bench) == 0
    # It may be hurried.
    assert await _redrive(bench, seqs=[waiting.seq]) == 1
    await bench.work(rounds=3)
    (dead,) = await _listed(bench)
    assert dead.state is State.DEAD
    with pytest.raises(BelongsToSaga, match=r"which the saga was told.*retry"):
        await _redrive(bench, seqs=[dead.seq])
    assert await _redrive(bench) == 0
    assert await _drop(bench) == 1


async def test_a_wrong_number_changes_nothing(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"))
    (first,) = await _listed(bench)
    with pytest.raises(NoSuchMessage, match="list the held messages"):
        await _drop(bench, seqs=[first.seq, 77])
    with pytest.raises(NoSuchMessage, match=rf"rest of the selection: the message {first.seq};"):
        await _redrive(bench, seqs=[first.seq], key="bob")
    for wrong in (range(0), range(1001)):
        with pytest.raises(InvalidSelection):
            await _drop(bench, seqs=list(wrong))
    async with bench.sessions.begin() as session:
        with pytest.raises(InvalidSelection):
            await operators.drop(session, Selection(), now=bench.clock.now(), limit=0)
    assert len(await bench.rows()) == 1


async def test_a_packet_that_can_be_read_by_now_takes_its_place(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, retry=RetryPolicy(attempts=5))
    note = bench.note("first")
    good = unread(to_structured(note), RIGHT)
    await bench.table.hold([good, unread(b"what?", RIGHT)])
    await bench.table.hold([unread(to_structured(bench.note("forged")), {})])
    assert await _redrive(bench, state=State.DEAD) == 3
    await bench.work(rounds=2)
    assert await bench.entries() == ["first"]
    assert [(row["state"], row["message_id"]) for row in await bench.rows()] == [("dead", None)] * 2


async def test_a_redrive_beside_the_worker_keeps_the_order_and_loses_nothing(
    engine: AsyncEngine,
) -> None:
    trouble = Trouble("first")
    bench = HoldingBench(engine, trouble.handlers())
    await bench.hold(bench.note("first"), attempts=2)
    await bench.work()
    await bench.hold(*(bench.note(f"note {n}") for n in range(5)))
    await bench.make_due()
    entered, goes_on = asyncio.Event(), asyncio.Event()
    receive = bench.watched.receive

    async def slowly(*args: Any) -> Any:
        replies = await receive(*args)
        entered.set()
        await goes_on.wait()
        return replies

    bench.watched.receive = slowly  # type: ignore[method-assign, assignment]  # only of this one
    working = asyncio.create_task(bench.worker.run_once())
    await entered.wait()
    trouble.poison.clear()
    assert await _redrive(bench, state=State.DEAD) == 1
    goes_on.set()
    await working
    await bench.work(rounds=2)
    assert await bench.entries() == ["note 0", "first", *(f"note {n}" for n in range(1, 5))]
    assert await bench.rows() == []
