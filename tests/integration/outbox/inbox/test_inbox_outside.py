"""Calls to the outside, as their commands come: what is stored, called and answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import outbox
from outbox.inbox.answering import add_answer
from outbox.inbox.outside.delivery import Delivery
from outbox.inbox.rows import State
from outbox.inbox.runners import Sessions
from outbox.replies import Outcome, Pending
from tests.support.outbox.calls import BOOKED, Bank, Lost, Provider, asked
from tests.support.outbox.inboxes import Book, Names, Noted, Unbook, envelope
from tests.support.processes.waiting import until


async def test_a_call_is_stored_made_and_answered_in_one_delivery(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    reply = await bank.ask(action)
    assert (reply.outcome, reply.value) == (Outcome.DONE, {"balance": 1})
    assert await bank.states() == {action.id: State.RAN}
    assert await bank.entries() == ["before", "after 1"]
    assert provider.effects == [action.id]
    (context,) = provider.asked
    assert (context.attempt, context.before) == (1, {"card": 7})
    assert await bank.ask(action) == reply
    assert len(provider.asked) == 1
    assert await bank.told() == []
    assert await bank.kept(action.id) is None


async def test_a_function_of_either_kind_is_called_on_either_ground(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.is_async = not provider.is_async
    bank = Bank(sessions, provider)
    assert (await bank.ask(asked(names(), Book("a")))).outcome is Outcome.DONE
    assert await bank.entries() == ["before", "after 1"]


async def test_a_call_is_committed_before_it_is_made_and_holds_no_connection(
    small_pool: Sessions, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.inbox.inbox.PATIENCE", 0.1)
    provider = Provider.on(small_pool)
    gate = provider.held()
    bank = Bank(small_pool, provider, is_patient=True)
    action = asked(names(), Book("a"))
    answer = await bank.ask(action)
    await gate.is_entered()
    # With one connection in all, this would wait if the call had it.
    kept = await bank.kept(action.id)
    assert (kept.attempt, kept.before, kept.until > kept.since) == (1, '{"card":7}', True)
    assert kept.holder.startswith("bank@")
    assert await bank.entries() == ["before"]
    assert answer.is_pending
    assert answer.retry_after == pytest.approx(40, abs=1)
    gate.open()
    await bank.reaches(action, State.RAN)


async def test_a_result_that_comes_after_the_delivery_is_sent_by_itself(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).is_pending
    gate.open()
    await bank.reaches(action, State.RAN)
    (told,) = await bank.told()
    assert (told["command_id"], told["outcome"]) == (action.id, "done")
    assert told["value"] == {"balance": 1}


async def test_a_copy_joins_the_call_that_this_process_makes(
    sessions: Sessions, provider: Provider, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.inbox.inbox.PATIENCE", 40.0)
    gate = provider.held()
    bank = Bank(sessions, provider, is_patient=True)
    action = asked(names(), Book("a"))
    first = bank.asking(action)
    await gate.is_entered()
    copy = bank.asking(action)
    running = bank.inbox.calls._running[action.id]
    await until(lambda: len(running.deliveries) == 2, what="both wait for it")
    gate.open()
    assert (await first).outcome is Outcome.DONE
    assert await copy == await first
    assert len(provider.asked) == 1
    assert await bank.told() == []


async def test_a_refusal_is_definite_and_after_takes_back_what_before_wrote(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [outbox.Refused("no-money", "the card has no money")]
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    reply = await bank.ask(action)
    assert (reply.outcome, reply.code, reply.after_pending) == (Outcome.REFUSED, "no-money", False)
    assert await bank.states() == {action.id: State.REFUSED}
    assert await bank.entries() == ["before", "refused"]
    assert await bank.ask(action) == reply


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (outbox.Refused("no", "closed"), Outcome.REFUSED),
        (outbox.Locked("a"), Outcome.LOCKED),
        (outbox.Ongoing(), Outcome.ONGOING),
        (Pending(), Outcome.FAILED),
        (("a", "tuple"), Outcome.FAILED),
        (BOOKED, Outcome.FAILED),
    ],
    ids=["refused", "locked", "ongoing", "pending", "a tuple", "an object"],
)
async def test_before_ends_the_matter_and_what_it_cannot_mean_fails(
    sessions: Sessions, provider: Provider, names: Names, first: Any, outcome: Outcome
) -> None:
    bank = Bank(sessions, provider)
    bank.first = first
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).outcome is outcome
    assert provider.asked == []
    assert await bank.entries() == []
    assert await bank.kept(action.id) is None


async def test_a_call_without_an_answer_is_repeated_under_its_key_as_the_next_attempt(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [Lost("reset"), BOOKED]
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    answer = await bank.ask(action)
    assert (answer.is_pending, answer.retry_after) == (True, 1.0)
    assert answer.reason == "Lost: reset"
    bank.first = {"card": 8}
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert [(it.id, it.attempt, it.before) for it in provider.asked] == [
        (action.id, 1, {"card": 7}),
        (action.id, 2, {"card": 7}),
    ]
    assert provider.effects == [action.id]
    assert await bank.entries() == ["before", "after 1"]


async def test_a_failure_that_comes_after_the_delivery_is_told_with_the_time_to_ask_again(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [Lost("reset")]
    gate = provider.held()
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).is_pending
    gate.open()
    await until(bank.has_told, what="it is told")
    (told,) = await bank.told()
    assert (told["outcome"], told["code"], told["retry_after"]) == ("ongoing", "pending", 1.0)


@pytest.mark.parametrize(
    ("nothing", "outcome", "seconds"),
    [(outbox.Ongoing(7), Outcome.ONGOING, 7), (outbox.Locked("it"), Outcome.LOCKED, None)],
    ids=["ongoing", "locked"],
)
async def test_a_call_in_which_nothing_happened_is_repeated_without_any_promise(
    sessions: Sessions,
    provider: Provider,
    names: Names,
    nothing: Any,
    outcome: Outcome,
    seconds: float | None,
) -> None:
    provider.script = [nothing, outbox.Refused("no", "no money")]
    bank = Bank(sessions, provider, keyed=False)
    action = asked(names(), Book("a"))
    answer = await bank.ask(action)
    assert (answer.outcome, answer.retry_after) == (outcome, seconds)
    assert (await bank.ask(action)).outcome is Outcome.REFUSED
    assert [it.attempt for it in provider.asked] == [1, 2]


async def test_without_a_key_an_unknown_outcome_stays_unknown(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [Lost("reset")]
    bank = Bank(sessions, provider, keyed=False)
    action = asked(names(), Book("a"))
    for _ in range(2):
        answer = await bank.ask(action)
        assert (answer.outcome, answer.code) == (Outcome.UNKNOWN, "unknown")
        assert "Lost: reset" in (answer.reason or "")
    assert len(provider.asked) == 1
    assert await bank.states() == {action.id: State.PENDING}


async def test_an_answer_of_another_type_than_promised_is_no_answer(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = ["a receipt"]
    bank = Bank(sessions, provider)
    answer = await bank.ask(asked(names(), Book("a")))
    assert answer.is_pending
    assert "InvalidMessage" in (answer.reason or "")


async def test_a_call_whose_answer_comes_by_a_webhook_is_completed_like_any_pending_command(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [Pending(note="the airline calls back")]
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    answer = await bank.ask(action)
    assert (answer.reason, answer.retry_after) == ("the airline calls back", None)
    assert await bank.ask(action) == answer
    assert len(provider.asked) == 1
    await bank.complete(action.id, BOOKED)
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert await bank.entries() == ["before"], (
        "the code that completes it writes what belongs to it"
    )


# --- After ---------------------------------------------------------------------------------------


async def test_a_result_whose_after_fails_is_kept_and_nothing_is_called_again(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    bank.after_raises = [RuntimeError("no such row"), RuntimeError("no such row")]
    action = asked(names(), Book("a"))
    for _ in range(2):
        answer = await bank.ask(action)
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, "RuntimeError: no such row")
        kept = await bank.kept(action.id)
        assert kept.late_reply is not None
        assert "its result is known" in kept.last_error
        assert await bank.entries() == ["before"]
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert await bank.entries() == ["before", "after 1"]
    assert len(provider.asked) == 1


async def test_after_gets_the_refusal_again_where_it_failed(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    provider.script = [outbox.Refused("no", "no money")]
    bank = Bank(sessions, provider)
    bank.after_raises = [RuntimeError("no such row")]
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).outcome is Outcome.FAILED
    assert (await bank.ask(action)).outcome is Outcome.REFUSED
    assert await bank.entries() == ["before", "refused"]


async def test_a_result_is_written_once_the_database_takes_it(
    sessions: Sessions, provider: Provider, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(sessions, provider)
    failures = bank.fail_results(monkeypatch, 2)
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).outcome is Outcome.DONE
    assert failures == []
    assert len(provider.asked) == 1


async def test_a_call_without_a_way_to_the_sender_fails_before_it_is_made(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"), source="stranger", reply_to="stranger")
    reply = await bank.ask(action)
    assert reply.outcome is Outcome.FAILED
    assert "bank has no peer stranger" in str(reply.reason)
    assert provider.asked == []
    assert (await bank.entries(), await bank.states()) == ([], {})


async def test_a_result_whose_way_to_the_sender_is_lost_is_kept_for_its_next_question(
    sessions: Sessions, provider: Provider, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    assert (await bank.ask(action)).is_pending
    outbox.install(sessions, source="bank", routes={}, clock=bank.clock, peers=[])
    gate.open()
    await bank.reaches(action, State.RAN)
    assert await bank.told() == []
    assert "cannot be sent" in caplog.text
    assert (await bank.ask(action)).outcome is Outcome.DONE


async def test_a_delivery_waits_longer_for_a_result_that_is_being_written(
    sessions: Sessions, provider: Provider, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(sessions, provider, is_patient=True)
    writing, go_on = bank.hold_results(monkeypatch)
    wait, is_over = bank.inbox.calls.wait, asyncio.Event()

    async def wait_in_vain(delivery: Delivery, *, until: float, at_most: float) -> None:
        """Its patience is over just when the result is being written."""
        await writing.wait()
        now = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(0.1, is_over.set)
        await wait(delivery, until=now, at_most=at_most)

    monkeypatch.setattr(bank.inbox.calls, "wait", wait_in_vain)
    asking = bank.asking(asked(names(), Book("a")))
    await is_over.wait()
    assert not asking.done()
    go_on.set()
    assert (await asking).outcome is Outcome.DONE
    assert await bank.told() == []


async def test_answers_that_leave_as_messages_are_sent_with_the_result(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider, told=add_answer)
    actions = [asked(names(), Book("a")), asked(names(), Book("b"))]
    assert (await bank.ask(actions[0])).outcome is Outcome.DONE
    assert [it["outcome"] for it in await bank.told()] == ["done"]
    gate = provider.held()
    assert (await bank.ask(actions[1])).is_pending
    gate.open()
    await bank.reaches(actions[1], State.RAN)
    assert [it["command_id"] for it in await bank.told()] == [it.id for it in actions]


# --- In a batch ----------------------------------------------------------------------------------


async def test_a_call_does_not_hold_up_the_other_messages_of_its_batch(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider)
    batch = [asked(names(), Book("a")), envelope(names(), Noted("a"))]
    answers = await bank.receive(*batch)
    assert (answers[0].is_pending, answers[1].outcome) == (True, Outcome.DONE)
    gate.open()
    await bank.reaches(batch[0], State.RAN)


async def test_what_comes_behind_a_call_that_only_a_relay_asks_for_waits_for_it(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    gate = provider.held()
    bank = Bank(sessions, provider)
    alone = envelope(names(), Book("a"))
    batch = [alone, envelope(names(), Noted("a")), envelope(names(), Noted("b"))]
    answers = await bank.receive(*batch)
    assert answers[0].retry_after == 2.0
    assert [it.outcome for it in answers[1:]] == [Outcome.NOT_ATTEMPTED, Outcome.DONE]
    answers = await bank.receive(*batch)
    assert answers[0].is_pending
    assert [it.outcome for it in answers[1:]] == [Outcome.NOT_ATTEMPTED, Outcome.DONE]
    gate.open()
    await bank.reaches(alone, State.RAN)
    assert [it.outcome for it in await bank.receive(*batch)] == [Outcome.DONE] * 3


async def test_many_calls_are_made_at_once_and_beyond_them_it_is_too_busy(
    sessions: Sessions, provider: Provider, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.inbox.inbox.MOST_CALLS", 2)
    gates = [provider.held() for _ in range(2)]
    bank = Bank(sessions, provider)
    batch = [asked(names(), Book(f"{n}")) for n in range(3)]
    answers = await bank.receive(*batch)
    assert [it.outcome for it in answers] == [Outcome.ONGOING] * 2 + [Outcome.TOO_BUSY]
    assert set(await bank.states()) == {it.id for it in batch[:2]}
    for gate in gates:
        gate.open()
    await until(lambda: bank.inbox.calls.free == 2, what="both slots are free")
    assert (await bank.ask(batch[2])).outcome is Outcome.DONE


# --- Its undo ------------------------------------------------------------------------------------


async def test_a_call_is_undone_by_another_call(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    action = asked(names(), Book("a"))
    await bank.ask(action)
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(undo)).outcome is Outcome.DONE
    assert bank.refunds.asked[0].undoes == {action.id: "ran"}
    assert await bank.states() == {action.id: State.UNDONE, undo.id: State.RAN}
    assert (await bank.ask(action)).outcome is Outcome.ALREADY_UNDONE


async def test_an_undo_that_the_provider_refuses_leaves_the_action_as_it_was(
    sessions: Sessions, provider: Provider, names: Names
) -> None:
    bank = Bank(sessions, provider)
    bank.refunds.script = [outbox.Refused("late", "too late for a refund")]
    action = asked(names(), Book("a"))
    await bank.ask(action)
    undo = asked(names(), Unbook("a"), undoes=(action.id,))
    assert (await bank.ask(undo)).outcome is Outcome.REFUSED
    assert await bank.states() == {action.id: State.RAN, undo.id: State.REFUSED}
