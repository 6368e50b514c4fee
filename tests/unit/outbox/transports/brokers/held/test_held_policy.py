"""What becomes of a held message, by its reply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from outbox.replies import PENDING, Outcome, Reply
from outbox.retry import OnExhaustion, RetryPolicy
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import ToHold
from outbox.transports.brokers.held.policy import (
    BEHIND,
    GONE,
    LONGEST_REST,
    GiveUp,
    HeldPolicy,
    Rest,
    exhausted,
    judge,
    unreadable,
)
from outbox.transports.brokers.held.rows import HeldRow, State, fingerprint, new_row
from outbox.wire.envelope import to_structured
from tests.support.outbox.inboxes import START, Book, Names, Noted, envelope

NAMES = Names()
SAGA = NAMES()
POLICY = HeldPolicy(RetryPolicy(first=1, ceiling=8, attempts=3))
BLOCKING = replace(POLICY, on_exhaustion=OnExhaustion.BLOCK_KEY)
EVENT = HeldRow(
    seq=1,
    queue="bank",
    packet=Packet(0, {}, b"{}", "ada"),
    undo_lane=False,
    key="ada",
    message_id=NAMES(),
    saga=None,
    state=State.WAITING,
    attempts=1,
    revision=5,
    last_error="an earlier one",
    expires_in=None,
)
COMMAND = replace(EVENT, saga=SAGA)
ENDS = {
    Outcome.DONE,
    Outcome.REFUSED,
    Outcome.ALREADY_UNDONE,
    Outcome.NOTHING_TO_UNDO,
    Outcome.EXPIRED,
}


def said(outcome: Outcome, **rest: Any) -> Reply:
    return Reply(outcome, code=rest.pop("code", outcome.value), reason="so it is", **rest)


@pytest.mark.parametrize("row", [EVENT, COMMAND], ids=["event", "command"])
@pytest.mark.parametrize("policy", [POLICY, BLOCKING], ids=["going on", "blocking"])
def test_every_answer_has_a_verdict(row: HeldRow, policy: HeldPolicy) -> None:
    verdicts = {it: judge(row, said(it), policy, 0.0) for it in Outcome}
    assert {it for it in Outcome if verdicts[it] == GONE} == ENDS | (
        {Outcome.TOO_OLD, Outcome.UNKNOWN, Outcome.LOCKED, Outcome.ONGOING}
        if row is COMMAND
        else set()
    )
    assert verdicts[Outcome.NOT_ATTEMPTED] == BEHIND
    assert verdicts[Outcome.FAILED] == Rest(2, 2.0, "failed: so it is")


@pytest.mark.parametrize("outcome", [Outcome.TOO_BUSY, Outcome.LOCKED, Outcome.ONGOING])
def test_what_is_no_failure_uses_up_no_attempt(outcome: Outcome) -> None:
    row = replace(EVENT, attempts=2)
    assert judge(row, said(outcome), POLICY, 0.0) == Rest(2, 1.0, f"{outcome}: so it is")
    asked = judge(row, said(outcome, retry_after=5.0), POLICY, 0.0)
    assert asked == Rest(2, 5.0, f"{outcome}: so it is")
    for_ever = judge(row, said(outcome, retry_after=1e12), POLICY, 0.0)
    assert isinstance(for_ever, Rest)
    assert for_ever.delay == LONGEST_REST


def test_what_the_receiver_keeps_leaves_the_table() -> None:
    kept = said(Outcome.ONGOING, code=PENDING)
    assert judge(EVENT, kept, POLICY, 0.0) == GONE
    asked_again = said(Outcome.ONGOING, code=PENDING, retry_after=2.0)
    assert judge(EVENT, asked_again, POLICY, 0.0) == Rest(1, 2.0, "ongoing: pending: so it is")


@pytest.mark.parametrize(
    "reply", [said(Outcome.FAILED), said(Outcome.REJECTED, code="unknown-type")]
)
def test_the_last_failure_gives_up(reply: Reply) -> None:
    last = replace(EVENT, attempts=2)
    verdict = judge(last, reply, POLICY, 0.0)
    assert isinstance(verdict, GiveUp)
    assert (verdict.state, verdict.attempts, verdict.must_tell) == (State.DEAD, 3, False)
    assert verdict.reason.startswith("given up after 3 attempts; the last: ")
    blocked = judge(last, reply, BLOCKING, 0.0)
    assert isinstance(blocked, GiveUp)
    assert blocked.state is State.BLOCKED
    # The command of a saga never blocks, and its saga is told.
    for policy in (POLICY, BLOCKING):
        buried = judge(replace(last, saga=SAGA), reply, policy, 0.0)
        assert isinstance(buried, GiveUp)
        assert (buried.state, buried.must_tell) == (State.DEAD, True)


@pytest.mark.parametrize("outcome", [Outcome.TOO_OLD, Outcome.UNKNOWN, Outcome.REJECTED])
def test_what_stays_wrong_is_given_up_at_once(outcome: Outcome) -> None:
    verdict = judge(EVENT, said(outcome), POLICY, 0.0)
    attempts = 2 if outcome is Outcome.REJECTED else 1
    assert verdict == GiveUp(State.DEAD, attempts, f"{outcome}: so it is", must_tell=False)
    blocked = judge(EVENT, said(outcome), BLOCKING, 0.0)
    assert isinstance(blocked, GiveUp)
    assert blocked.state is State.BLOCKED


def test_a_rejection_was_told_already() -> None:
    verdict = judge(COMMAND, said(Outcome.REJECTED), POLICY, 0.0)
    assert verdict == GiveUp(State.DEAD, 2, "rejected: so it is", must_tell=False)


def test_attempts_that_left_no_answer_count_too() -> None:
    assert exhausted(replace(EVENT, attempts=2), POLICY) is None
    verdict = exhausted(replace(COMMAND, attempts=3), BLOCKING)
    reason = "given up after 3 attempts; the last: an earlier one"
    assert verdict == GiveUp(State.DEAD, 3, reason, must_tell=True)


def test_a_row_that_cannot_be_read_is_dead() -> None:
    assert unreadable(EVENT, "no JSON") == GiveUp(State.DEAD, 2, "no JSON", must_tell=False)


def _held(queue: str = "bank", **rest: Any) -> ToHold:
    note = envelope(NAMES(), Noted("ada"), **rest)
    return ToHold(queue, Packet(0, {}, to_structured(note), "ada"), note, "why")


def test_the_fingerprint_tells_messages_apart_and_copies_not() -> None:
    one = _held()
    assert one.envelope is not None
    copy = replace(one, packet=Packet(1, {"a": "b"}, b"other bytes"))
    others = [
        *(_held(), replace(one, queue="press"), replace(one, envelope=None)),
        replace(one, envelope=replace(one.envelope, source="another")),
        replace(one, envelope=replace(one.envelope, data=b'{"account":"ada","entry":"another"}')),
    ]
    assert fingerprint(copy) == fingerprint(one)
    assert len({fingerprint(it) for it in (one, *others)}) == 1 + len(others)
    unread = [
        ToHold(queue, Packet(0, {}, body), None, "why")
        for queue, body in (("a", b"bc"), ("ab", b"c"), ("abc", b""))
    ]
    assert len({fingerprint(it) for it in unread}) == 3


def test_only_a_command_that_its_saga_awaits_is_a_sagas() -> None:
    awaited: dict[str, Any] = {"reply_to": "sender", "correlation": SAGA}

    def saga_of(**rest: Any) -> object:
        command = envelope(NAMES(), Book("ada"), **rest)
        item = ToHold("bank", Packet(0, {}, to_structured(command)), command, "why")
        return new_row(item, "bank", START)["saga"]

    assert saga_of(**awaited) == SAGA
    assert saga_of(**awaited | {"reply_to": "another"}) is None
    assert saga_of(correlation=SAGA) is None
