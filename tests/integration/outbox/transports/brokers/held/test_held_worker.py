"""The worker tries held messages again, each key in its order."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.crashpoints import Crash
from outbox.inbox.limits import InboxLimits
from outbox.replies import Locked
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.tables import inbox_held
from outbox.testing import crash_at
from outbox.transports.brokers.held.worker import HeldSettings
from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine
from tests.support.outbox.holding import SAGA, HoldingBench, Trouble, unread
from tests.support.outbox.inboxes import START, Book, Noted, Unbook, handling
from tests.support.processes.waiting import BUSY

AWAITED: dict[str, Any] = {
    "source": "orchestrator",
    "reply_to": "orchestrator",
    "correlation": SAGA,
}


async def test_the_first_goes_alone_and_the_rest_of_its_key_in_batches(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine, settings=HeldSettings(batch=2))
    await bench.hold(*(bench.note(f"note {n}") for n in range(4)))
    await bench.work()
    assert bench.watched.batches == [["note 0"], ["note 1", "note 2"], ["note 3"]]
    assert await bench.entries() == [f"note {n}" for n in range(4)]
    assert await bench.rows() == []


async def test_the_rest_of_a_key_stays_behind_what_fails(engine: AsyncEngine) -> None:
    trouble = Trouble("second")
    bench = HoldingBench(engine, trouble.handlers())
    await bench.hold(
        *(bench.note(entry) for entry in ("first", "second", "third")), bench.note("other", "bob")
    )
    await bench.work()
    assert sorted(await bench.entries()) == ["first", "other"]
    assert await bench.standing() == {"second": ("waiting", 2), "third": ("waiting", 1)}
    trouble.poison.clear()
    await bench.work()
    assert (await bench.entries())[-2:] == ["second", "third"]


async def test_what_fails_too_often_is_given_up_and_its_key_goes_on(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, Trouble("first").handlers())
    await bench.hold(bench.note("first"), bench.note("second"))
    await bench.work()
    assert await bench.standing() == {"first": ("waiting", 2), "second": ("waiting", 1)}
    await bench.work()
    assert await bench.standing() == {"first": ("dead", 3)}
    assert await bench.entries() == ["second"]
    (row,) = await bench.rows()
    assert "given up after 3 attempts" in row["last_error"]
    assert "first is poison" in row["last_error"]
    # It is never tried again by itself, and holds no key.
    await bench.work()
    assert await bench.standing() == {"first": ("dead", 3)}
    assert await bench.held_keys(bench.note("third")) == set()


async def test_a_blocked_key_stays_behind_its_first(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, Trouble("first").handlers(), on_exhaustion=OnExhaustion.BLOCK_KEY)
    await bench.hold(bench.note("first"), bench.note("second"))
    await bench.work(rounds=4)
    assert await bench.standing() == {"first": ("blocked", 3), "second": ("waiting", 1)}
    assert await bench.held_keys(bench.note("third")) == {(False, "ada")}
    await bench.hold(bench.note("third"))
    await bench.work()
    assert bench.watched.batches == [["first"], ["first"]]
    assert await bench.entries() == []


async def test_what_is_rejected_blocks_its_key_before_the_next_is_handled(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine, on_exhaustion=OnExhaustion.BLOCK_KEY)
    wrong = bench.new(Noted("ada", "wrong"))
    bench.handlers.check(Noted, _refuse_wrong)
    await bench.hold(bench.note("first"), wrong, bench.note("third"))
    await bench.work()
    assert await bench.entries() == ["first"]
    assert await bench.standing() == {"wrong": ("blocked", 2), "third": ("waiting", 1)}


def _refuse_wrong(event: Noted) -> None:
    if event.entry == "wrong":
        raise ValueError("a wrong entry")


async def test_the_pauses_grow(engine: AsyncEngine) -> None:
    retry = RetryPolicy(first=100, ceiling=1000)
    bench = HoldingBench(engine, Trouble("first").handlers(), retry=retry)
    await bench.hold(bench.note("first"))
    pauses = [await bench.pause()]
    for _ in range(2):
        await bench.work()
        pauses.append(await bench.pause())
    assert pauses == [pytest.approx(seconds, abs=10) for seconds in (100, 200, 400)]


async def test_an_undo_does_not_wait_for_a_poisonous_action(engine: AsyncEngine) -> None:
    def fail(command: Book, _: Any) -> Any:
        raise ValueError(f"{command.entry} is poison")

    bench = HoldingBench(engine, handling(fail), retry=RetryPolicy(attempts=9))
    action = bench.new(Book("ada"), **AWAITED)
    undo = bench.new(Unbook("ada"), undoes=(action.id,), **AWAITED)
    await bench.hold(action)
    await bench.work()
    assert await bench.standing() == {"an entry": ("waiting", 2)}
    await bench.hold(undo)
    await bench.work()
    assert "nothing-to-undo" in [it["outcome"] for it in await bench.sent()]
    # The action is barred by now, which is its answer.
    await bench.work()
    assert await bench.rows() == []
    assert {it["outcome"] for it in await bench.sent()} == {"nothing-to-undo", "already-undone"}


async def test_the_burial_of_a_sagas_command_is_told_even_where_keys_block(
    engine: AsyncEngine,
) -> None:
    def fail(command: Book, _: Any) -> Any:
        raise ValueError("poison")

    bench = HoldingBench(engine, handling(fail), on_exhaustion=OnExhaustion.BLOCK_KEY)
    command = bench.new(Book("ada"), **AWAITED)
    await bench.hold(command, bench.note("next"))
    await bench.work(rounds=2)
    assert await bench.standing() == {"an entry": ("dead", 3)}
    assert await bench.entries() == ["next"]
    (told,) = await bench.sent()
    assert (told["to"], told["command_id"], told["instance_id"], told["outcome"], told["code"]) == (
        "orchestrator",
        command.id,
        SAGA,
        "rejected",
        "dead-letter",
    )
    assert "given up after 3 attempts" in told["reason"]


async def test_a_burial_without_a_way_to_the_saga_is_no_endless_trouble(
    engine: AsyncEngine,
) -> None:
    def fail(command: Book, _: Any) -> Any:
        raise ValueError("poison")

    bench = HoldingBench(engine, handling(fail), peers=["another"])
    await bench.hold(bench.new(Book("ada"), **AWAITED), attempts=2)
    await bench.work()
    assert await bench.standing() == {"an entry": ("dead", 3)}
    assert await bench.sent() == []


async def test_a_sagas_command_that_is_locked_leaves_the_table_since_its_saga_asks_again(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine, handling(lambda *_: Locked(by="another")))
    await bench.hold(bench.new(Book("ada"), **AWAITED))
    await bench.work()
    assert await bench.rows() == []
    assert [it["outcome"] for it in await bench.sent()] == ["locked"]


async def test_what_is_locked_for_no_saga_waits_without_using_up_attempts(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine, handling(lambda *_: Locked(by="another")))
    await bench.hold(bench.new(Book("ada")))
    await bench.work(rounds=5)
    assert await bench.standing() == {"an entry": ("waiting", 1)}


async def test_an_attempt_that_ends_the_process_counts_and_the_next_worker_goes_on(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"))
    with crash_at("held: after handling, before settle"), pytest.raises(Crash):
        await bench.work()
    assert await bench.entries() == ["first"]
    assert await bench.standing() == {"first": ("waiting", 2), "second": ("waiting", 1)}
    # Nobody has it before the claim is over.
    assert await bench.worker.run_once() == 0
    await bench.make_due()
    assert await bench.new_worker().run_once() == 1
    assert await bench.entries() == ["first", "second"]
    assert await bench.rows() == []


async def test_a_message_that_ends_each_process_is_given_up_untried(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, settings=HeldSettings(batch=1))
    await bench.hold(bench.note("first"), bench.note("second"))
    async with bench.sessions.begin() as session:
        await session.execute(
            update(inbox_held).where(inbox_held.c.next_at.is_not(None)).values(attempts=3)
        )
    await bench.work()
    assert bench.watched.batches == [["second"]]
    assert await bench.standing() == {"first": ("dead", 3)}


async def test_a_crash_right_after_the_settlement_loses_nothing(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"))
    with crash_at("held: after settle"), pytest.raises(Crash):
        await bench.work()
    await bench.make_due()
    await bench.new_worker().run_once()
    assert await bench.entries() == ["first", "second"]
    assert await bench.rows() == []


async def test_workers_beside_each_other_keep_the_order_of_each_key(
    database: Database, make_engine: MakeEngine
) -> None:
    bench = HoldingBench(make_engine(database), settings=HeldSettings(keys=2, batch=3))
    others = [HoldingBench(make_engine(database), settings=HeldSettings(keys=2, batch=3))
              for _ in range(2)]  # fmt: skip
    accounts = [f"account {n}" for n in range(6)]
    await bench.hold(*(bench.note(f"{it}: {n}", it) for n in range(8) for it in accounts))
    await bench.make_due()
    for _ in range(4):
        await asyncio.gather(*(it.worker.run_once() for it in (bench, *others)))
    entries = await bench.entries()
    assert len(entries) == 48
    for account in accounts:
        own = [it for it in entries if it.startswith(f"{account}:")]
        assert own == [f"{account}: {n}" for n in range(8)]
    assert await bench.rows() == []


async def test_a_worker_that_outlasts_its_claim_does_no_harm(engine: AsyncEngine) -> None:
    entered, goes_on = asyncio.Event(), asyncio.Event()
    bench = HoldingBench(engine, settings=HeldSettings(claim=0.0), limits=InboxLimits(lock=0.1))
    handle = bench.inbox.receive

    async def slow(envelopes: Any, settled: Any = None) -> Any:
        replies = await handle(envelopes, settled)
        if not entered.is_set():
            entered.set()
            await goes_on.wait()
        return replies

    bench.inbox.receive = slow  # type: ignore[method-assign]  # only of this one
    await bench.hold(bench.note("first"), bench.note("second"))
    await bench.make_due()
    late = asyncio.create_task(bench.worker.run_once())
    await entered.wait()
    await bench.make_due()
    await bench.new_worker().run_once()
    assert await bench.rows() == []
    goes_on.set()
    await late
    assert await bench.entries() == ["first", "second"]
    assert await bench.rows() == []


async def test_what_a_late_worker_gives_up_is_not_given_up_where_it_was_changed(
    engine: AsyncEngine,
) -> None:
    trouble = Trouble("first")
    bench = HoldingBench(engine, trouble.handlers())
    await bench.hold(bench.note("first"), attempts=2)
    await bench.make_due()
    receive = bench.watched.receive

    async def redriven_meanwhile(*args: Any) -> Any:
        replies = await receive(*args)
        async with bench.sessions.begin() as session:
            await session.execute(
                update(inbox_held).values(attempts=0, revision=inbox_held.c.revision + 1)
            )
        return replies

    bench.watched.receive = redriven_meanwhile  # type: ignore[method-assign, assignment]  # only of this one
    await bench.worker.run_once()
    assert await bench.standing() == {"first": ("waiting", 0)}


async def test_trouble_of_the_database_uses_up_no_attempt(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)

    async def away(*_: Any) -> Any:
        raise ConnectionRefusedError("the database is away")

    receive = bench.watched.receive
    bench.watched.receive = away  # type: ignore[method-assign, assignment]  # for a while
    await bench.hold(bench.note("first"))
    for _ in range(5):
        await bench.make_due()
        with pytest.raises(ConnectionRefusedError):
            await bench.worker.run_once()
    assert await bench.standing() == {"first": ("waiting", 1)}
    bench.watched.receive = receive  # type: ignore[method-assign]  # as it was
    await bench.work()
    assert await bench.entries() == ["first"]


async def test_what_the_inbox_raises_of_its_own_uses_up_an_attempt(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)

    async def raises(*_: Any) -> Any:
        raise RuntimeError("a mistake in code")

    bench.watched.receive = raises  # type: ignore[method-assign, assignment]  # only of this one
    await bench.hold(bench.note("first"), bench.note("other", "bob"))
    await bench.work()
    assert await bench.standing() == {"first": ("waiting", 2), "other": ("waiting", 2)}
    await bench.work()
    assert await bench.standing() == {"first": ("dead", 3), "other": ("dead", 3)}


async def test_what_is_held_loses_its_time_there_too(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    expiring = bench.new(
        Book("ada"), **AWAITED, expires_in=60_000, expires=START + timedelta(days=9000)
    )
    await bench.hold(expiring)
    async with bench.sessions.begin() as session:
        await session.execute(update(inbox_held).values(expires_at=START - timedelta(days=9000)))
    await bench.work()
    assert await bench.entries() == []
    assert [it["outcome"] for it in await bench.sent()] == ["expired"]


@pytest.mark.parametrize(("left", "outcome"), [(10**15 - 1, "done"), (1 - 10**15, "expired")])
async def test_a_time_beyond_all_years_is_held_as_any_other(
    engine: AsyncEngine, left: int, outcome: str
) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.new(Book("ada"), **AWAITED, expires_in=left, expires=START))
    await bench.work()
    assert [it["outcome"] for it in await bench.sent()] == [outcome]


async def test_a_packet_that_cannot_be_read_is_dead_and_holds_no_key(
    engine: AsyncEngine,
) -> None:
    bench = HoldingBench(engine)
    await bench.table.hold([unread(b"\xff"), unread(b"{}")])
    await bench.work()
    assert [row["state"] for row in await bench.rows()] == ["dead", "dead"]
    assert bench.watched.batches == []


async def test_a_row_that_another_program_has_changed_is_given_up(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine)
    await bench.hold(bench.note("first"), bench.note("second"), bench.note("third"))
    async with bench.sessions.begin() as session:
        (_, second, _) = await bench.rows()
        await session.execute(
            update(inbox_held).where(inbox_held.c.seq == second["seq"]).values(body=b"{}")
        )
    await bench.work()
    assert await bench.entries() == ["first", "third"]
    assert await bench.standing() == {"unread": ("dead", 2)}


async def test_run_works_until_it_is_stopped(engine: AsyncEngine) -> None:
    bench = HoldingBench(engine, retry=RetryPolicy(first=0.01), settings=HeldSettings(idle=0.05))
    stop = asyncio.Event()
    running = asyncio.create_task(bench.worker.run(stop))
    await bench.hold(bench.note("first"), bench.note("second"))
    # On SQLite the rest is over by the test's clock.
    bench.clock.advance(1)
    await bench.watched.given(2)
    stop.set()
    await asyncio.wait_for(running, 10 * BUSY)
    assert await bench.entries() == ["first", "second"]
    assert await bench.rows() == []
