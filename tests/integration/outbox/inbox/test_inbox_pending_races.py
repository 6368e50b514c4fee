"""Who comes first where an answer that comes later meets its undo, its handler or another answer:
the lock of the row decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox.contract import Void
from outbox.database.sqlalchemy_internals import await_
from outbox.inbox.handlers import Context
from outbox.inbox.pending import rows as pending_rows
from outbox.inbox.pending.complete import complete, drop
from outbox.inbox.rows import State
from outbox.replies import Done, Outcome, Pending, Refused
from outbox.testing import crash_at
from tests.support.outbox.inboxes import (
    PATIENT,
    START,
    Bench,
    Book,
    Booked,
    Names,
    Noted,
    Unbook,
    envelope,
)
from tests.support.outbox.lock_waits import a_transaction_waits
from tests.support.outbox.pending_banks import SAGA, Bank, answered, asked, bench_of, kept, told


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def bench(engine: AsyncEngine, bank: Bank) -> Bench:
    return bench_of(engine, bank, PATIENT)


async def dropped(bench: Bench, id: str) -> None:
    async with bench.sessions.begin() as session:
        await session.run_sync(drop, "bank", id, "no one answers", bench.clock.now())


class Pause:
    """A handler that waits before it returns, once."""

    def __init__(self, bank: Bank) -> None:
        self.entered, self.go = asyncio.Event(), asyncio.Event()
        bank.before_return = self

    async def __call__(self) -> None:
        self.entered.set()
        await self.go.wait()


async def test_an_undo_that_waits_for_a_completion_finds_an_action_that_ran(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    async with bench.sessions.begin() as session:
        await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, bench.clock.now())
        undoing = asyncio.create_task(bench.receive_one(undo))
        await a_transaction_waits(engine)
        assert not undoing.done()
    assert (await undoing).outcome is Outcome.DONE
    assert dict(bank.undone[0].undoes) == {action.id: "ran"}
    assert await bench.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert [it["outcome"] for it in await told(bench)] == ["done"]


@pytest.mark.parametrize("answer", [None, Pending()])
async def test_a_completion_that_waits_for_an_undo_is_too_late(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine, answer: object
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    bank.unbook, pause = answer, Pause(bank)
    undoing = asyncio.create_task(bench.receive_one(undo))
    await pause.entered.wait()
    completing = asyncio.create_task(answered(bench, bank, {action.id: Booked(1)}))
    await a_transaction_waits(engine)
    assert not completing.done()
    pause.go.set()
    await undoing
    with pytest.raises(outbox.TooLate):
        await completing
    assert await told(bench) == []
    assert await bench.entries() == []


async def test_a_completion_that_waits_for_void_is_too_late(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    void = asked(names(), Void([action.id], f"{SAGA}/book"))
    answers = await asyncio.gather(
        bench.receive_one(void),
        answered(bench, bank, {action.id: Booked(1)}),
        return_exceptions=True,
    )
    states = await bench.states()
    if states[action.id] is State.BARRED:
        assert isinstance(answers[1], outbox.TooLate)
    else:
        assert (states[action.id], answers[1]) == (State.RAN, None)


async def test_of_two_completions_at_once_one_counts(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    async with bench.sessions.begin() as session:
        await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, bench.clock.now())
        second = asyncio.create_task(answered(bench, bank, {action.id: Refused("no", "no")}))
        await a_transaction_waits(engine)
    with pytest.raises(outbox.AlreadyAnswered):
        await second
    assert [it["outcome"] for it in await told(bench)] == ["done"]


async def test_a_drop_that_waits_for_a_completion_finds_its_answer(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    async with bench.sessions.begin() as session:
        await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, bench.clock.now())
        dropping = asyncio.create_task(dropped(bench, action.id))
        await a_transaction_waits(engine)
    with pytest.raises(outbox.AlreadyAnswered):
        await dropping
    assert [it["outcome"] for it in await told(bench)] == ["done"]


async def test_an_undo_that_waits_for_a_drop_undoes_in_doubt_and_a_completion_is_too_late(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    async with bench.sessions.begin() as session:
        await session.run_sync(drop, "bank", action.id, "no one answers", bench.clock.now())
        undoing = asyncio.create_task(bench.receive_one(undo))
        await a_transaction_waits(engine)
        assert not undoing.done()
    assert (await undoing).outcome is Outcome.DONE
    assert dict(bank.undone[0].undoes) == {action.id: "in-doubt"}
    with pytest.raises(outbox.TooLate):
        await answered(bench, bank, {action.id: Booked(1)})


async def test_a_drop_whose_process_dies_before_the_commit_changes_nothing(
    bench: Bench, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    with crash_at("inbox: completed, before commit"):
        await dropped(bench, action.id)
    assert await bench.states() == {action.id: State.PENDING}
    assert (await told(bench), await kept(bench)) == ([], [action.id])


@pytest.mark.databases("postgresql")
async def test_a_completion_before_the_handler_commits_is_not_pending_yet(
    bench: Bench, bank: Bank, names: Names
) -> None:
    pause = Pause(bank)
    action = asked(names(), Book("a"))
    handling = asyncio.create_task(bench.receive_one(action))
    await pause.entered.wait()
    with pytest.raises(outbox.NotPendingYet):
        await answered(bench, bank, {action.id: Booked(1)})
    pause.go.set()
    assert (await handling).is_pending
    await answered(bench, bank, {action.id: Booked(1)})
    assert (await bench.receive_one(action)).outcome is Outcome.DONE


async def test_a_second_undo_that_waits_for_a_pending_one_runs_nothing(
    bench: Bench, bank: Bank, names: Names, engine: AsyncEngine
) -> None:
    action = asked(names(), Book("a"))
    undos = [asked(names(), Unbook("a"), undoes=(action.id,)) for _ in range(2)]
    await bench.receive(action)
    bank.unbook, pause = Pending(), Pause(bank)
    first = asyncio.create_task(bench.receive_one(undos[0]))
    await pause.entered.wait()
    second = asyncio.create_task(bench.receive_one(undos[1]))
    await a_transaction_waits(engine)
    pause.go.set()
    assert (await first).is_pending
    reply = await second
    assert (reply.is_pending, reply.retry_after) == (True, 60.0), "it is asked for again"
    assert len(bank.undone) == 1
    await answered(bench, bank, {undos[0].id: Done(None)})
    assert (await bench.receive_one(undos[1])).outcome is Outcome.NOTHING_TO_UNDO
    assert await kept(bench) == []


async def test_completions_of_several_in_crosswise_order_do_not_deadlock(
    bench: Bench, bank: Bank, names: Names
) -> None:
    actions = [asked(names(), Book("a", str(n))) for n in range(30)]
    await bench.receive(*actions)
    forth = {each.id: Booked(1) for each in actions}
    back = dict(reversed(forth.items()))
    await asyncio.gather(answered(bench, bank, forth), answered(bench, bank, back))
    assert set((await bench.states()).values()) == {State.RAN}
    assert len(await told(bench)) == 30


async def test_completions_and_undos_that_race_leave_no_effect_and_no_pending_row(
    bench: Bench, bank: Bank, names: Names
) -> None:
    actions = [asked(names(), Book("a", str(n))) for n in range(12)]
    undos = [asked(names(), Unbook("a"), undoes=(each.id,)) for each in actions]
    await bench.receive(*actions)

    async def completed(id: str) -> bool:
        try:
            await answered(bench, bank, {id: Booked(1)})
        except outbox.TooLate:
            return False
        return True

    await asyncio.gather(
        *(bench.receive_one(each) for each in undos), *(completed(each.id) for each in actions)
    )
    assert await bench.entries() == []
    states = await bench.states()
    assert {states[each.id] for each in actions} == {State.UNDONE}
    assert await kept(bench) == []


@pytest.mark.parametrize("after", ["completion", "undo"])
async def test_a_copy_that_comes_late_is_answered_from_the_row(
    bench: Bench, bank: Bank, names: Names, after: str
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    ends: dict[str, Callable[[], Awaitable[object]]] = {
        "completion": lambda: answered(bench, bank, {action.id: Booked(1)}),
        "undo": lambda: bench.receive(asked(names(), Unbook("a"), undoes=(action.id,))),
    }
    await ends[after]()
    expected = Outcome.DONE if after == "completion" else Outcome.ALREADY_UNDONE
    assert (await bench.receive_one(action)).outcome is expected


@pytest.mark.databases("postgresql")
async def test_a_completion_of_an_undo_that_commits_just_now_concludes_its_actions_too(
    bench: Bench, bank: Bank, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    bank.unbook, pause = Pending(), Pause(bank)
    undoing = asyncio.create_task(bench.receive_one(undo))
    await pause.entered.wait()
    read = pending_rows.read

    def read_before_the_commit(*arguments: Any) -> Any:
        monkeypatch.setattr(pending_rows, "read", read)
        found = read(*arguments)
        pause.go.set()
        await_(undoing)
        return found

    monkeypatch.setattr(pending_rows, "read", read_before_the_commit)
    await answered(bench, bank, {undo.id: Done(None)})
    assert await bench.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert await kept(bench) == []


@pytest.mark.parametrize("first", ["action", "undo"])
async def test_a_handler_completes_nothing_that_its_own_transaction_decides_about(
    bench: Bench, bank: Bank, names: Names, first: str
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    said: list[str] = []

    async def noted(session: AsyncSession, _: Noted, context: Context) -> None:
        try:
            await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, START)
            said.append("completed")
        except outbox.TooLate:
            said.append("too late")

    bank.handlers.on(Noted)(noted)
    event = envelope(names(), Noted("b"))
    if first == "undo":
        await bench.receive(action)
    replies = await bench.receive(action if first == "action" else undo, event)
    assert replies[1].outcome is Outcome.DONE
    if first == "action":
        assert said == ["completed"]
        assert (await bench.receive_one(action)).outcome is Outcome.DONE
    else:
        assert said == ["too late"]
        assert await told(bench) == []
