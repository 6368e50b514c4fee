"""Commands whose answers come later: what is kept, what undoes it, and what completes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox.contract import Void
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.pending.complete import complete
from outbox.inbox.rows import State
from outbox.replies import Done, Outcome, Pending, Refused
from outbox.tables import outbox as outbox_table
from outbox.wire import reply_json
from tests.support.outbox.inboxes import (
    START,
    Bench,
    Book,
    Booked,
    Names,
    Noted,
    Unbook,
    envelope,
    write_entry,
)
from tests.support.outbox.pending_banks import (
    SAGA,
    WAITS,
    Bank,
    answered,
    asked,
    bench_of,
    kept,
    told,
)


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def bench(engine: AsyncEngine, bank: Bank) -> Bench:
    return bench_of(engine, bank)


async def test_a_pending_command_keeps_what_its_handler_wrote_and_is_not_called_again(
    bench: Bench, names: Names
) -> None:
    action = asked(names(), Book("a"))
    reply = await bench.receive_one(action)
    assert (reply.is_pending, reply.reason, reply.retry_after) == (True, WAITS.note, None)
    progress = reply_json.progress_of(reply)
    assert progress is not None
    assert (progress.since, progress.expected_at) == (START, START + timedelta(minutes=5))
    assert await bench.receive_one(action) == reply
    assert await bench.entries() == ["an entry"]
    assert await bench.states() == {action.id: State.PENDING}


async def test_pending_commands_share_a_transaction_with_others_and_hold_no_key(
    bench: Bench, bank: Bank, names: Names
) -> None:
    batch = [asked(names(), Book("a", f"{n}")) for n in range(3)]
    replies = await bench.receive(*batch)
    assert all(reply.is_pending for reply in replies)
    assert await bench.entries() == ["0", "1", "2"]


async def test_another_content_or_saga_under_the_id_of_a_pending_command_is_rejected(
    bench: Bench, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    other = asked(action.id, Book("a", "more"))
    stranger = replace(action, correlation=names())
    for each in (other, stranger):
        assert (await bench.receive_one(each)).code == "conflict"


async def test_a_completion_is_the_stored_answer_and_is_told_with_the_saga_of_the_command(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"), trace="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    await bench.receive(action)
    await answered(bench, bank, {action.id: Booked(7)})
    (message,) = await told(bench)
    assert (message["instance_id"], message["command_id"]) == (SAGA, action.id)
    assert (message["outcome"], message["value"]) == ("done", {"balance": 7})
    reply = await bench.receive_one(action)
    assert (reply.outcome, reply.value) == (Outcome.DONE, {"balance": 7})
    assert await kept(bench) == []


async def test_a_reply_has_the_saga_and_trace_of_its_command_in_a_session_that_handles_another(
    bench: Bench, bank: Bank, names: Names
) -> None:
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    action = asked(names(), Book("a"), trace=trace)
    await bench.receive(action)
    bank.book = None

    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, START)
        return Booked(2)

    handlers = Handlers("bank")
    handlers.on(Book)(book)
    other = Bench(bench.engine, handlers, sessions=bench.sessions)
    await other.receive_one(envelope(names(), Book("b"), correlation=names(), reply_to="sender"))
    async with bench.sessions() as session:
        (headers,) = (await session.execute(select(outbox_table.c.headers))).scalars()
    assert SAGA in headers
    assert "1" * 32 in headers


async def test_a_refusal_after_pending_counts_as_an_action_that_ran(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    await answered(bench, bank, {action.id: Refused("full", "no seat is left")})
    reply = await bench.receive_one(action)
    assert (reply.outcome, reply.code, reply.after_pending) == (Outcome.REFUSED, "full", True)
    assert (await told(bench))[0]["after_pending"] is True
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE
    assert await bench.entries() == []


@pytest.mark.parametrize("answer", [Booked(1), Done(Booked(1)), Refused("no", "no")])
async def test_the_same_answer_again_changes_nothing_and_another_one_is_an_error(
    bench: Bench, bank: Bank, names: Names, answer: object
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    await answered(bench, bank, {action.id: answer})
    await answered(bench, bank, {action.id: answer})
    assert len(await told(bench)) == 1
    with pytest.raises(outbox.AlreadyAnswered):
        await answered(bench, bank, {action.id: Booked(2)})


async def test_a_completion_before_its_handler_committed_is_to_be_repeated(
    bench: Bench, bank: Bank, names: Names
) -> None:
    with pytest.raises(outbox.NotPendingYet):
        await answered(bench, bank, {names(): Booked(1)})


@pytest.mark.parametrize("way", ["undone", "undoing", "barred"])
async def test_a_completion_that_is_too_late_leaves_the_callers_own_writes(
    bench: Bench, bank: Bank, names: Names, way: str
) -> None:
    action = asked(names(), Book("a"))
    if way != "barred":
        await bench.receive(action)
    bank.unbook = Pending() if way == "undoing" else None
    await bench.receive(asked(names(), Unbook("a"), undoes=(action.id,)))
    async with bench.sessions.begin() as session:
        with pytest.raises(outbox.TooLate, match=way):
            await session.run_sync(complete, bank.handlers, {action.id: Booked(1)}, START)
        await write_entry(session, "the money came", action.id)
    assert await bench.entries() == ["the money came"]
    assert await told(bench) == []


@pytest.mark.parametrize("answer", [outbox.Ongoing(), outbox.Locked("x"), Pending()])
async def test_what_ends_nothing_completes_nothing(
    bench: Bench, bank: Bank, names: Names, answer: object
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    with pytest.raises(outbox.InvalidMessage, match="ends nothing"):
        await answered(bench, bank, {action.id: answer})


async def test_a_value_that_the_command_does_not_promise_completes_nothing(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    with pytest.raises(outbox.InvalidMessage):
        await answered(bench, bank, {action.id: "seven"})
    assert await bench.states() == {action.id: State.PENDING}


async def test_of_several_all_are_completed_or_none(bench: Bench, bank: Bank, names: Names) -> None:
    first, second = (asked(names(), Book("a", str(n))) for n in range(2))
    await bench.receive(first)
    with pytest.raises(outbox.NotPendingYet):
        await answered(bench, bank, {first.id: Booked(1), second.id: Booked(2)})
    assert await bench.states() == {first.id: State.PENDING}
    await bench.receive(second)
    await answered(bench, bank, {second.id: Booked(2), first.id: Booked(1)})
    assert set((await bench.states()).values()) == {State.RAN}


async def test_a_handler_cannot_complete_its_own_command(
    bench: Bench, bank: Bank, names: Names
) -> None:
    async def book(session: AsyncSession, command: Book, context: Context) -> Booked:
        await session.run_sync(complete, bank.handlers, {context.id: Booked(1)}, START)
        return Booked(1)

    handlers = Handlers("bank")
    handlers.on(Book)(book)
    reply = await Bench(bench.engine, handlers, sessions=bench.sessions).receive_one(
        asked(names(), Book("a"))
    )
    assert reply.outcome is Outcome.FAILED
    assert "handled just now" in str(reply.reason)


async def test_without_a_way_to_the_sender_a_command_is_answered_at_once_or_fails(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = replace(asked(names(), Book("a")), source="stranger", reply_to="stranger")
    reply = await bench.receive_one(action)
    assert reply.outcome is Outcome.FAILED
    assert "bank has no peer stranger" in str(reply.reason)
    assert (await bench.entries(), await bench.states()) == ([], {})
    bank.book = Booked(1)
    assert (await bench.receive_one(action)).outcome is Outcome.DONE


async def test_where_the_way_to_the_sender_is_lost_nothing_is_completed(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    outbox.install(bench.sessions, source="bank", routes={}, clock=bench.clock, peers=[])
    with pytest.raises(outbox.Unrouted, match="sender"):
        await answered(bench, bank, {action.id: Booked(1)})
    assert await bench.states() == {action.id: State.PENDING}


async def test_an_undo_of_a_pending_command_runs_the_compensation(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    await bench.receive(action)
    assert (await bench.receive_one(undo)).outcome is Outcome.DONE
    assert await bench.entries() == []
    assert await bench.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert await kept(bench) == []
    assert dict(bank.undone[0].undoes) == {action.id: "pending"}


async def test_a_pending_compensation_makes_its_action_undoing_until_it_is_concluded(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action, undo = asked(names(), Book("a")), None
    bank.book, bank.unbook = Booked(1), Pending("the bank takes days")
    await bench.receive(action)
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(undo)).is_pending
    assert await bench.states() == {action.id: State.UNDOING, undo.id: State.PENDING}
    assert (await bench.receive_one(action)).outcome is Outcome.ALREADY_UNDONE
    second = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bench.receive_one(second)).outcome is Outcome.ONGOING
    await answered(bench, bank, {undo.id: Done(None)})
    assert (await bench.states())[action.id] is State.UNDONE
    assert (await bench.receive_one(second)).outcome is Outcome.NOTHING_TO_UNDO


@pytest.mark.parametrize(("first", "was"), [(Booked(1), State.RAN), (WAITS, State.PENDING)])
async def test_a_refused_compensation_gives_its_action_back_as_it_was(
    bench: Bench, bank: Bank, names: Names, first: object, was: State
) -> None:
    bank.book, bank.unbook = first, Pending()
    action = asked(names(), Book("a"))
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    before = await bench.receive_one(action)
    await bench.receive(undo)
    await answered(bench, bank, {undo.id: Refused("no", "the fare is not refundable")})
    assert await bench.states() == {action.id: was, undo.id: State.REFUSED}
    again = await bench.receive_one(action)
    assert again == before
    if was is State.PENDING:
        await answered(bench, bank, {action.id: Booked(3)})


async def test_an_answer_that_is_expected_after_the_expiry_is_a_failure_and_keeps_nothing(
    bench: Bench, bank: Bank, names: Names
) -> None:
    expires = START + timedelta(minutes=4)
    action = asked(names(), Book("a"), expires=expires)
    reply = await bench.receive_one(action)
    assert reply.outcome is Outcome.FAILED
    assert "2030-01-01T12:05:00+00:00" in str(reply.reason)
    assert "2030-01-01T12:04:00+00:00" in str(reply.reason)
    assert await bench.entries() == []
    assert await bench.states() == {}
    # Also where the type is called within savepoints.
    await bench.receive(action, asked(names(), Book("b")))
    assert await bench.entries() == ["an entry"]


async def test_a_time_beyond_all_years_leaves_room_for_every_answer(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"), expires=START, expires_in=10**15 - 1)
    assert (await bench.receive_one(action)).is_pending
    assert await bench.states() == {action.id: State.PENDING}


async def test_void_bars_what_has_not_come_and_what_is_pending_and_tells_what_ran(
    bench: Bench, bank: Bank, names: Names
) -> None:
    absent, pending, ran = (asked(names(), Book("a", str(n))) for n in range(3))
    await bench.receive(pending)
    bank.book = Booked(9)
    await bench.receive(ran)
    ids = [each.id for each in (absent, pending, ran)]
    void = asked(names(), Void(ids, f"{SAGA}/book"))
    reply = await bench.receive_one(void)
    assert reply.outcome is Outcome.DONE
    assert reply.value == {
        absent.id: {"state": "absent"},
        pending.id: {"state": "pending"},
        ran.id: {"state": "ran", "reply": {"outcome": "done", "value": {"balance": 9}}},
    }
    assert await bench.receive_one(void) == reply, "the stored reply"
    for each in (absent, pending):
        assert (await bench.receive_one(each)).outcome is Outcome.ALREADY_UNDONE
    assert (await bench.receive_one(ran)).outcome is Outcome.DONE
    with pytest.raises(outbox.TooLate, match="barred"):
        await answered(bench, bank, {pending.id: Booked(1)})
    assert await kept(bench) == []


async def test_void_in_one_batch_with_its_command_comes_in_the_order_of_the_batch(
    bench: Bench, bank: Bank, names: Names
) -> None:
    bank.book = Booked(1)
    first, second = asked(names(), Book("a", "1")), asked(names(), Book("b", "2"))
    voids = [asked(names(), Void([each.id], f"{SAGA}/{each.id}")) for each in (first, second)]
    replies = await bench.receive(first, voids[0], voids[1], second)
    assert [reply.outcome for reply in replies] == [
        *(Outcome.DONE, Outcome.DONE, Outcome.DONE, Outcome.ALREADY_UNDONE)
    ]
    assert replies[1].value[first.id]["state"] == "ran"
    assert await bench.entries() == ["1"]


@pytest.mark.parametrize(("first", "was"), [(Booked(1), State.RAN), (WAITS, State.PENDING)])
async def test_void_of_a_pending_undo_gives_its_action_back_as_it_was(
    bench: Bench, bank: Bank, names: Names, first: object, was: State
) -> None:
    bank.book, bank.unbook = first, Pending()
    action = asked(names(), Book("a"))
    undo, second = (asked(names(), Unbook("a"), undoes=(action.id,)) for _ in range(2))
    await bench.receive(action)
    await bench.receive(undo)
    reply = await bench.receive_one(asked(names(), Void([undo.id], f"{SAGA}/book")))
    assert reply.value == {undo.id: {"state": "pending"}}
    assert (await bench.states())[action.id] is was
    bank.unbook = None
    assert (await bench.receive_one(second)).outcome is Outcome.DONE
    assert await bench.entries() == []
    with pytest.raises(outbox.TooLate, match="barred"):
        await answered(bench, bank, {undo.id: Done(None)})


@pytest.mark.parametrize("ids", [[], ["no-id"]])
async def test_void_of_what_is_no_id_is_rejected(
    bench: Bench, names: Names, ids: list[str]
) -> None:
    reply = await bench.receive_one(asked(names(), Void(ids, "x")))
    assert (reply.outcome, reply.code) == (Outcome.REJECTED, "invalid")


async def test_void_of_another_sagas_command_is_rejected(
    bench: Bench, bank: Bank, names: Names
) -> None:
    action = asked(names(), Book("a"))
    await bench.receive(action)
    void = replace(asked(names(), Void([action.id], "x")), correlation=names())
    assert (await bench.receive_one(void)).code == "conflict"
    assert await bench.states() == {action.id: State.PENDING}


async def test_what_is_pending_outside_of_a_saga_outlives_the_retention(
    bench: Bench, bank: Bank, names: Names
) -> None:
    lone, other = (envelope(names(), Book("a", str(n))) for n in range(2))
    await bench.receive(lone)
    bank.book = Booked(1)
    await bench.receive(other)
    bench.clock.advance(400 * 86400.0)
    await bench.inbox.purge()
    assert await bench.states() == {lone.id: State.PENDING}
    await answered(bench, bank, {lone.id: Booked(1)})
    await bench.inbox.purge()
    assert await bench.states() == {}
    assert await kept(bench) == []


async def test_an_event_cannot_be_pending(engine: AsyncEngine, names: Names) -> None:
    handlers = Handlers("bank")

    async def noted(session: AsyncSession, event: Noted, context: Context) -> Any:
        return WAITS

    handlers.on(Noted)(noted)
    reply = await Bench(engine, handlers).receive_one(envelope(names(), Noted("a")))
    assert (reply.outcome, "cannot be refused" in str(reply.reason)) == (Outcome.FAILED, True)
