"""P3: an action and its undo never both stay in effect, in any order of arrival, and also
where they arrive at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import delete, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.rows import State
from outbox.replies import Locked, Outcome, Refused
from tests.support.outbox.inboxes import (
    PATIENT,
    Bench,
    Book,
    Names,
    Unbook,
    envelope,
    ledger,
    write_entry,
)
from tests.support.outbox.lock_waits import a_transaction_waits

Meanwhile = Callable[[], Awaitable[Any]]


@pytest.fixture
def bench(engine: AsyncEngine) -> Bench:
    return Bench(engine, limits=PATIENT)


class Teller:
    """Handlers that do what they are told: `book` and `unbook` are called before they return, and
    what they return is the answer."""

    def __init__(self) -> None:
        self.book: Meanwhile | None = None
        self.unbook: Meanwhile | None = None
        self.handlers = Handlers("bank")
        self.handlers.on(Book)(self._book)
        self.handlers.on(Unbook)(self._unbook)

    async def _book(self, session: AsyncSession, command: Book, context: Context) -> Any:
        await write_entry(session, command.entry, context.id)
        return None if self.book is None else await self.book()

    async def _unbook(self, session: AsyncSession, command: Unbook, context: Context) -> Any:
        await session.execute(delete(ledger).where(ledger.c.by.in_(context.undoes)))
        return None if self.unbook is None else await self.unbook()


async def returning(value: object) -> object:
    return value


async def raising() -> object:
    raise ValueError("no")


# --- One after the other -----------------------------------------------------------------------


async def test_p3_an_undo_after_its_action_takes_the_effect_back(
    bench: Bench, names: Names
) -> None:
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(action)).outcome is Outcome.DONE
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE
    assert await bench.entries() == []
    assert await bench.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert (await bench.receive_one(action)).outcome is Outcome.ALREADY_UNDONE
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE, "the stored reply"
    assert await bench.entries() == []


async def test_p3_an_action_after_its_undo_has_no_effect(bench: Bench, names: Names) -> None:
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(undo)).outcome is Outcome.NOTHING_TO_UNDO
    assert (await bench.receive_one(action)).outcome is Outcome.ALREADY_UNDONE
    assert await bench.entries() == []
    assert (await bench.receive_one(undo)).outcome is Outcome.NOTHING_TO_UNDO, "the stored reply"


@pytest.mark.parametrize("order", ["action first", "undo first"])
async def test_a_batch_that_holds_a_command_and_its_undo_is_split_between_them(
    bench: Bench, names: Names, order: str
) -> None:
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    others = [envelope(names(), Book("b", entry)) for entry in ("1", "2")]
    if order == "action first":
        replies = await bench.receive(others[0], action, undo, others[1])
        expected = [Outcome.DONE] * 4
    else:
        replies = await bench.receive(others[0], undo, action, others[1])
        expected = [Outcome.DONE, Outcome.NOTHING_TO_UNDO, Outcome.ALREADY_UNDONE, Outcome.DONE]
    assert [reply.outcome for reply in replies] == expected
    assert await bench.entries() == ["1", "2"]


async def test_a_second_undo_under_another_id_undoes_nothing(bench: Bench, names: Names) -> None:
    action = envelope(names(), Book("a"))
    undos = [envelope(names(), Unbook("a"), undoes=(action.id,)) for _ in range(2)]
    replies = await bench.receive(*undos)
    assert [reply.outcome for reply in replies] == [Outcome.NOTHING_TO_UNDO] * 2
    assert (await bench.receive_one(action)).outcome is Outcome.ALREADY_UNDONE


async def test_the_undo_of_a_refused_action_runs_nothing(engine: AsyncEngine, names: Names) -> None:
    teller = Teller()
    teller.book = lambda: returning(Refused("held", "by another guest"))
    teller.unbook = raising
    bench = Bench(engine, teller.handlers)
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(action)).outcome is Outcome.REFUSED
    assert (await bench.receive_one(undo)).outcome is Outcome.NOTHING_TO_UNDO


async def test_an_undo_that_is_refused_is_stored_and_its_action_stays_in_effect(
    engine: AsyncEngine, names: Names
) -> None:
    teller = Teller()
    teller.unbook = lambda: returning(Refused("late", "too late"))
    bench = Bench(engine, teller.handlers)
    action = envelope(names(), Book("a", "salary"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    assert (await bench.receive_one(undo)).outcome is Outcome.REFUSED
    assert await bench.entries() == ["salary"]
    assert await bench.states() == {action.id: State.RAN, undo.id: State.REFUSED}
    teller.unbook = None
    again = envelope(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(again)).outcome is Outcome.DONE
    assert await bench.entries() == []


@pytest.mark.parametrize("answer", [raising, lambda: returning(Locked("x"))])
async def test_an_undo_that_fails_leaves_everything_as_it_was(
    engine: AsyncEngine, names: Names, answer: Meanwhile
) -> None:
    teller = Teller()
    teller.unbook = answer
    bench = Bench(engine, teller.handlers)
    action, never = envelope(names(), Book("a", "salary")), envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id, never.id))
    await bench.receive(action)
    assert not (await bench.receive_one(undo)).outcome.is_final
    assert await bench.entries() == ["salary"]
    assert await bench.states() == {action.id: State.RAN}, "no bar stays either"
    teller.unbook = None
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE
    assert await bench.entries() == []


# --- At once -----------------------------------------------------------------------------------


async def test_an_undo_waits_for_its_action_in_flight_and_undoes_it(
    engine: AsyncEngine, names: Names
) -> None:
    """In one statement the undo would wait for the action, and then not see its row."""
    teller, entered, go = Teller(), asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        entered.set()
        await go.wait()

    teller.book = pause
    bench = Bench(engine, teller.handlers, limits=PATIENT)
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    acting = asyncio.create_task(bench.receive_one(action))
    await entered.wait()
    undoing = asyncio.create_task(bench.receive_one(undo))
    await a_transaction_waits(engine)
    assert not undoing.done()
    go.set()
    assert (await acting).outcome is Outcome.DONE
    assert (await undoing).outcome is Outcome.DONE
    assert await bench.entries() == []


async def test_an_undo_that_waited_for_an_action_that_failed_bars_it(
    engine: AsyncEngine, names: Names
) -> None:
    teller, entered, go = Teller(), asyncio.Event(), asyncio.Event()

    async def pause_and_fail() -> None:
        entered.set()
        await go.wait()
        raise ValueError("no")

    teller.book = pause_and_fail
    bench = Bench(engine, teller.handlers, limits=PATIENT)
    action = envelope(names(), Book("a"))
    undo = envelope(names(), Unbook("a"), undoes=(action.id,))
    acting = asyncio.create_task(bench.receive_one(action))
    await entered.wait()
    undoing = asyncio.create_task(bench.receive_one(undo))
    await a_transaction_waits(engine)
    go.set()
    assert (await acting).outcome in (Outcome.FAILED, Outcome.ALREADY_UNDONE)
    assert (await undoing).outcome is Outcome.NOTHING_TO_UNDO
    teller.book = None
    assert (await bench.receive_one(action)).outcome is Outcome.ALREADY_UNDONE
    assert await bench.entries() == []


async def test_an_action_that_arrives_while_its_undo_is_at_work_has_no_effect(
    engine: AsyncEngine, names: Names
) -> None:
    teller, entered, go = Teller(), asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        entered.set()
        await go.wait()

    teller.unbook = pause
    bench = Bench(engine, teller.handlers, limits=PATIENT)
    ran, late = envelope(names(), Book("a")), envelope(names(), Book("a", "late"))
    undo = envelope(names(), Unbook("a"), undoes=(ran.id, late.id))
    await bench.receive(ran)
    undoing = asyncio.create_task(bench.receive_one(undo))
    await entered.wait()
    acting = asyncio.create_task(bench.receive_one(late))
    await a_transaction_waits(engine)
    go.set()
    assert (await undoing).outcome is Outcome.DONE
    assert (await acting).outcome is Outcome.ALREADY_UNDONE
    assert await bench.entries() == []


async def test_of_two_undos_at_once_one_undoes(engine: AsyncEngine, names: Names) -> None:
    teller, entered, go = Teller(), asyncio.Event(), asyncio.Event()
    undone = 0

    async def pause() -> None:
        nonlocal undone
        undone += 1
        entered.set()
        await go.wait()

    teller.unbook = pause
    bench = Bench(engine, teller.handlers, limits=PATIENT)
    action = envelope(names(), Book("a"))
    await bench.receive(action)
    undos = [envelope(names(), Unbook("a"), undoes=(action.id,)) for _ in range(2)]
    undoing = [asyncio.create_task(bench.receive_one(undo)) for undo in undos]
    await entered.wait()
    await a_transaction_waits(engine)
    go.set()
    outcomes = sorted([(await task).outcome for task in undoing])
    assert outcomes == [Outcome.DONE, Outcome.NOTHING_TO_UNDO]
    assert undone == 1


async def test_p3_holds_for_actions_and_undos_that_race(bench: Bench, names: Names) -> None:
    pairs = []
    for number in range(24):
        action = envelope(names(), Book(f"account {number}"))
        pairs.append((action, envelope(names(), Unbook("a"), undoes=(action.id,))))
    actions = [action for action, _ in pairs]
    undos = [undo for _, undo in reversed(pairs)]
    size = 4
    batches = [
        batch[start : start + size] for start in range(0, 24, size) for batch in (actions, undos)
    ]
    answers = await asyncio.gather(*(bench.receive(*batch) for batch in batches))
    replies = {
        each.id: reply
        for batch, answer in zip(batches, answers, strict=True)
        for each, reply in zip(batch, answer, strict=True)
    }
    for action, undo in pairs:
        assert (replies[action.id].outcome, replies[undo.id].outcome) in [
            (Outcome.DONE, Outcome.DONE),
            (Outcome.ALREADY_UNDONE, Outcome.NOTHING_TO_UNDO),
        ]
    assert await bench.entries() == []


@pytest.mark.databases("postgresql")
async def test_crosswise_batches_do_not_deadlock(engine: AsyncEngine, names: Names) -> None:
    async with engine.begin() as connection:
        for statement in _SLOW_INSERTS:
            await connection.execute(text(statement))
    errors = _errors_of(engine)
    bench = Bench(engine, limits=PATIENT)
    batch = [envelope(names(), Book(f"account {number}")) for number in range(12)]
    answers = await asyncio.gather(bench.receive(*batch), bench.receive(*reversed(batch)))
    assert {reply.outcome for answer in answers for reply in answer} == {Outcome.DONE}
    assert errors == []


def _errors_of(engine: AsyncEngine) -> list[BaseException]:
    """What the database answers with errors from now on, also where the inbox tries again."""
    errors: list[BaseException] = []
    event.listen(
        engine.sync_engine, "handle_error", lambda each: errors.append(each.original_exception)
    )
    return errors


# Each row of an insert takes its time, so that two of them meet half-way.
_SLOW_INSERTS = (
    "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql"
    " AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$",
    "CREATE TRIGGER slowly BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION dawdle()",
)


@pytest.mark.databases("postgresql")
async def test_crosswise_undos_do_not_deadlock(engine: AsyncEngine, names: Names) -> None:
    bench = Bench(engine, limits=PATIENT)
    actions = [envelope(names(), Book(f"account {number}")) for number in range(40)]
    await bench.receive(*actions)
    errors = _errors_of(engine)
    one = [envelope(names(), Unbook("a"), undoes=(action.id,)) for action in actions]
    two = [envelope(names(), Unbook("a"), undoes=(action.id,)) for action in reversed(actions)]
    answers = await asyncio.gather(bench.receive(*one), bench.receive(*two))
    outcomes = [reply.outcome for answer in answers for reply in answer]
    assert outcomes.count(Outcome.DONE) == outcomes.count(Outcome.NOTHING_TO_UNDO) == 40
    assert errors == []
