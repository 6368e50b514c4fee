"""Calls to the outside that meet their undo, before it, while it goes on, or after it."""

from __future__ import annotations

from typing import Any

import pytest

import outbox
from outbox.contract import Void
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome
from outbox.testing import crash_at
from outbox.wire.envelope import Envelope
from tests.support.outbox.calls import Bank, Lost, Provider, asked, ended
from tests.support.outbox.inboxes import Names, Unbook
from tests.support.processes.waiting import until

REFUSED = outbox.Refused("no", "no money")


@pytest.fixture
def ground(database_kind: str) -> str:
    """Both grounds and both databases, but not each with each."""
    return "in threads" if database_kind == "sqlite" else "on the loop"


# --- Its undo ------------------------------------------------------------------------------------


async def test_an_undo_that_meets_a_live_call_waits_until_its_time_is_over(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider)
    await bank.ask(action)
    answer = await bank.ask(undo)
    assert answer.is_pending
    assert answer.retry_after == pytest.approx(40, abs=1)
    assert await bank.states() == {action.id: State.PENDING}
    gate.open()
    await ended(bank)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert bank.refunds.asked[0].undoes == {action.id: "ran"}


@pytest.mark.parametrize("kind", ["outside", "a handler"])
async def test_an_undo_that_meets_a_call_whose_time_is_over_undoes_it_in_doubt(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope, kind: str
) -> None:
    with crash_at("outside: after the call, before its result"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider, undo=kind)
    await bank.let_pass(action.id)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    undone = bank.refunds.asked if kind == "outside" else bank.undone
    assert undone[0].undoes == {action.id: "in-doubt"}
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}


async def test_an_action_is_undoing_before_the_call_that_undoes_it_begins_and_is_not_called_again(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    with crash_at("outside: after the call, before its result"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider)
    await bank.let_pass(action.id)
    gate = bank.refunds.held()
    assert (await bank.ask(undo)).is_pending
    await gate.is_entered()
    assert await bank.states() == {action.id: State.UNDOING, undo.id: State.PENDING}
    assert (await bank.ask(action)).outcome is Outcome.ALREADY_UNDONE
    assert len(provider.asked) == 1
    gate.open()
    await bank.reaches(action, State.UNDONE)


async def test_an_undo_whose_process_died_is_called_again_and_knows_what_it_undoes(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank = Bank(sessions, provider)
    await bank.ask(action)
    with crash_at("outside: after the call, before its result"):
        await bank.ask(undo)
    other = Bank(sessions, provider)
    await other.let_pass(undo.id)
    assert (await other.ask(undo)).outcome is Outcome.DONE
    (context,) = other.refunds.asked
    assert (context.attempt, context.undoes) == (2, {action.id: "ran"})
    assert await other.states() == {action.id: State.UNDONE, undo.id: State.RAN}


async def test_a_refused_undo_of_a_call_in_doubt_leaves_it_to_be_called_again(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    with crash_at("outside: after the call, before its result"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider)
    bank.refunds.script = [REFUSED]
    await bank.let_pass(action.id)
    assert (await bank.ask(undo)).outcome is Outcome.REFUSED
    assert await bank.states() == {action.id: State.PENDING, undo.id: State.REFUSED}
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert provider.asked[-1].attempt == 2


# --- A late success ------------------------------------------------------------------------------


async def late(sessions: Sessions, provider: Provider, action: Envelope) -> tuple[Bank, Any]:
    """A bank whose call goes on although its time is over, and the gate at which it stands."""
    gate = provider.held()
    bank = Bank(sessions, provider)
    await bank.ask(action)
    await gate.is_entered()
    await bank.let_pass(action.id)
    return bank, gate


async def test_a_success_that_comes_while_it_is_undone_counts_once_that_undo_is_concluded(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope, names: Names
) -> None:
    bank, gate = await late(sessions, provider, action)
    refund = bank.refunds.held()
    await bank.ask(undo)
    gate.open()
    await until(lambda: bank.inbox.calls.taken == 1, what="the success has come")
    assert await bank.states() == {action.id: State.UNDOING, undo.id: State.PENDING}
    refund.open()
    await bank.reaches(action, State.RAN)
    told = {it["command_id"]: it["outcome"] for it in await bank.told()}
    assert told == {action.id: "done", undo.id: "done"}
    assert await bank.entries() == ["before"]
    again = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(again)).outcome is Outcome.DONE
    assert bank.refunds.asked[-1].undoes == {action.id: "ran"}


async def test_a_success_that_comes_after_its_undo_is_stored_and_told(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank, gate = await late(sessions, provider, action)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    gate.open()
    await bank.reaches(action, State.RAN)
    (told,) = await bank.told()
    assert (told["command_id"], told["outcome"]) == (action.id, "done")
    assert await bank.entries() == ["before"]
    assert await bank.kept(action.id) is None


async def test_a_success_that_comes_after_its_undo_is_told_though_a_copy_waits_for_the_call(
    sessions: Sessions,
    provider: Provider,
    action: Envelope,
    undo: Envelope,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider, is_patient=True)
    with monkeypatch.context() as patched:
        patched.setattr("outbox.inbox.inbox.PATIENCE", 0.1)
        assert (await bank.ask(action)).is_pending
    monkeypatch.setattr("outbox.inbox.inbox.PATIENCE", 40.0)
    await gate.is_entered()
    await bank.let_pass(action.id)
    assert (await Bank(sessions, provider).ask(undo)).outcome is Outcome.DONE
    copy = bank.asking(action)
    running = bank.inbox.calls._running[action.id]
    await until(lambda: len(running.deliveries) == 2, what="a copy waits for it")
    writing, go_on = bank.hold_results(monkeypatch)
    gate.open()
    await writing.wait()
    assert running.is_awaited
    go_on.set()
    assert (await copy).outcome is Outcome.ALREADY_UNDONE
    await bank.reaches(action, State.RAN)
    (told,) = await bank.told()
    assert (told["command_id"], told["outcome"]) == (action.id, "done")


async def test_a_success_that_comes_after_it_was_barred_is_stored_and_told(
    sessions: Sessions, provider: Provider, action: Envelope, names: Names
) -> None:
    bank, gate = await late(sessions, provider, action)
    assert (await bank.ask(asked(names(), Void([action.id], "a")))).outcome is Outcome.DONE
    assert (await bank.states())[action.id] is State.BARRED
    gate.open()
    await bank.reaches(action, State.RAN)
    (told,) = await bank.told()
    assert (told["command_id"], told["outcome"]) == (action.id, "done")


async def test_a_call_that_was_barred_in_doubt_is_no_refusal_and_its_undo_is_run(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope, names: Names
) -> None:
    bank, gate = await late(sessions, provider, action)
    assert (await bank.ask(asked(names(), Void([action.id], "a")))).outcome is Outcome.DONE
    assert (await bank.ask(action)).outcome is Outcome.UNKNOWN
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert (await bank.states())[action.id] is State.UNDONE
    gate.open()
    await bank.reaches(action, State.RAN)


async def test_a_success_of_an_earlier_attempt_counts_too_once_it_was_undone(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank, gate = await late(sessions, provider, action)
    with crash_at("outside: after before, before the call"):
        await Bank(sessions, provider).ask(action)
    await bank.let_pass(action.id)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    gate.open()
    await bank.reaches(action, State.RAN)


async def test_a_success_whose_answer_was_stored_before_is_not_counted_once_more(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank, gate = await late(sessions, provider, action)
    assert (await Bank(sessions, provider).ask(action)).outcome is Outcome.DONE
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    gate.open()
    await ended(bank)
    assert (await bank.states())[action.id] is State.UNDONE


async def test_a_refusal_that_comes_after_its_undo_says_nothing(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    provider.script = [REFUSED]
    bank, gate = await late(sessions, provider, action)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    gate.open()
    await ended(bank)
    assert (await bank.states())[action.id] is State.UNDONE
    assert await bank.told() == []


async def test_a_result_that_after_could_not_take_is_undone_in_doubt(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    provider.script = [REFUSED]
    bank = Bank(sessions, provider)
    bank.after_raises = [RuntimeError("no such row")]
    await bank.ask(action)
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert bank.refunds.asked[0].undoes == {action.id: "in-doubt"}
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}


# --- An undo that stays unknown ------------------------------------------------------------------


async def test_an_undo_that_stays_unknown_gives_its_actions_back_for_another_undo(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope, names: Names
) -> None:
    bank = Bank(sessions, provider, keyed=False)
    bank.refunds.script = [Lost("reset"), None]
    await bank.ask(action)
    for _ in range(2):
        assert (await bank.ask(undo)).outcome is Outcome.UNKNOWN
        assert await bank.states() == {action.id: State.RAN, undo.id: State.RAN}
    again = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(again)).outcome is Outcome.DONE
    assert bank.refunds.asked[-1].undoes == {action.id: "ran"}


async def test_an_undo_whose_process_died_gives_its_actions_back_where_it_is_not_repeated(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    with crash_at("outside: after the call, before its result"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider, keyed=False)
    await bank.let_pass(action.id)
    with crash_at("outside: after before, before the call"):
        await bank.ask(undo)
    await bank.let_pass(undo.id)
    assert (await bank.ask(undo)).outcome is Outcome.UNKNOWN
    assert await bank.states() == {action.id: State.PENDING, undo.id: State.RAN}


async def test_the_late_success_of_an_undo_that_was_unknown_counts_after_all(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    with crash_at("outside: after the call, before its result"):
        await Bank(sessions, provider).ask(action)
    bank = Bank(sessions, provider, keyed=False)
    await bank.let_pass(action.id)
    gate = bank.refunds.held()
    await bank.ask(undo)
    await bank.let_pass(undo.id)
    assert (await Bank(sessions, provider, keyed=False).ask(undo)).outcome is Outcome.UNKNOWN
    gate.open()
    await ended(bank)
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    (told,) = await bank.told()
    assert (told["command_id"], told["outcome"]) == (undo.id, "done")


async def test_the_late_success_of_an_unknown_undo_undoes_what_had_run_before_it(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope, names: Names
) -> None:
    bank = Bank(sessions, provider, keyed=False)
    await bank.ask(action)
    gate = bank.refunds.held()
    await bank.ask(undo)
    await bank.let_pass(undo.id)
    assert (await Bank(sessions, provider, keyed=False).ask(undo)).outcome is Outcome.UNKNOWN
    gate.open()
    await ended(bank)
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    again = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(again)).outcome is Outcome.NOTHING_TO_UNDO


async def test_the_late_success_of_an_unknown_undo_says_nothing_of_what_succeeded_since(
    sessions: Sessions, provider: Provider, action: Envelope, undo: Envelope
) -> None:
    bank, success = await late(sessions, provider, action)
    other = Bank(sessions, provider, keyed=False)
    gate = other.refunds.held()
    await other.ask(undo)
    await bank.let_pass(undo.id)
    assert (await Bank(sessions, provider, keyed=False).ask(undo)).outcome is Outcome.UNKNOWN
    success.open()
    await bank.reaches(action, State.RAN)
    gate.open()
    await ended(other)
    assert await bank.states() == {action.id: State.RAN, undo.id: State.RAN}


async def test_the_late_success_of_a_call_that_a_person_dropped_counts_after_all(
    sessions: Sessions, provider: Provider, action: Envelope
) -> None:
    bank, gate = await late(sessions, provider, action)
    await bank.drop(action.id)
    assert (await bank.ask(action)).outcome is Outcome.UNKNOWN
    gate.open()
    await ended(bank)
    assert (await bank.ask(action)).outcome is Outcome.DONE
