from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from outbox.inbox.outside import rules
from outbox.inbox.outside.rules import MARGIN, Attempt, Promise
from outbox.inbox.pending.pended import Pended
from outbox.replies import Outcome, Reply

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEYED = Promise(timedelta(seconds=30), keyed=True, key_valid_for=DAY)
REPEATABLE = Promise(timedelta(seconds=30), keyed=False, key_valid_for=DAY, repeatable=True)
NOT_KEYED = replace(KEYED, keyed=False)
STORED = Pended("id", "bank.book.v1", "sender", "sender", "saga", "a", None, since=NOW, read_at=NOW)
DONE = Reply(Outcome.DONE)
REFUSED = Reply(Outcome.REFUSED, code="no", reason="no money")


def later(pended: Pended, after: timedelta) -> Pended:
    """The same, read so much later."""
    return replace(pended, read_at=pended.read_at + after)


def begun(promise: Promise = KEYED) -> Pended:
    return rules.begun(STORED, promise, "one")


def again(pended: Pended, promise: Promise = KEYED, holder: str = "two") -> Pended:
    """The next attempt, which is allowed."""
    found = rules.begun_again(pended, promise, holder)
    assert isinstance(found, Pended)
    return found


# --- Beginning -----------------------------------------------------------------------------------


def test_a_call_is_its_holders_until_its_time_and_the_margin_are_over() -> None:
    call = begun()
    assert (call.attempt, call.holder, call.until) == (1, "one", NOW + KEYED.timeout + MARGIN)
    assert call.is_live
    assert later(call, KEYED.timeout + MARGIN - timedelta(microseconds=1)).is_live
    assert later(call, KEYED.timeout + MARGIN).is_over


def test_a_call_that_is_taken_over_is_in_doubt_and_has_a_new_time() -> None:
    call = again(later(begun(), KEYED.timeout + MARGIN))
    assert (call.attempt, call.holder, call.is_in_doubt) == (2, "two", True)
    assert call.until == call.read_at + KEYED.timeout + MARGIN


def test_what_definitely_did_not_happen_leaves_no_doubt() -> None:
    call = rules.not_made(begun(NOT_KEYED))
    assert call.is_over
    call = again(call, NOT_KEYED)
    assert (call.attempt, call.is_in_doubt) == (2, False)


@pytest.mark.parametrize(
    "ended",
    [lambda it: rules.failed(it, "lost"), lambda it: later(it, KEYED.timeout + MARGIN)],
    ids=["without an answer", "by the death of its process"],
)
def test_without_a_key_no_call_follows_one_that_may_have_had_its_effect(ended: object) -> None:
    assert callable(ended)
    answer = rules.begun_again(ended(begun(NOT_KEYED)), NOT_KEYED, "two")
    assert isinstance(answer, Reply)
    assert answer.outcome is Outcome.UNKNOWN
    assert answer.reason is not None
    assert "not said to honour a key" in answer.reason


def test_a_call_in_doubt_is_repeated_only_if_it_ends_with_a_valid_key_though_it_begins_late() -> (
    None
):
    call = rules.failed(begun(), "lost")
    latest = DAY - rules.START_WITHIN - KEYED.timeout
    assert isinstance(rules.begun_again(later(call, latest), KEYED, "two"), Pended)
    answer = rules.begun_again(later(call, latest + timedelta(seconds=1)), KEYED, "two")
    assert isinstance(answer, Reply)
    assert answer.outcome is Outcome.UNKNOWN


def test_the_key_counts_from_the_first_call_however_many_follow() -> None:
    call = begun()
    for _ in range(3):
        call = again(later(rules.failed(call, "lost"), timedelta(hours=7)))
    assert isinstance(rules.begun_again(later(call, timedelta(hours=4)), KEYED, "x"), Reply)


def test_what_is_not_in_doubt_is_called_however_old_its_key_is() -> None:
    assert again(later(rules.not_made(begun()), 2 * DAY)).attempt == 2


# --- Results -------------------------------------------------------------------------------------


def test_a_result_fits_its_own_attempt_only() -> None:
    call = begun()
    own = Attempt.of(call)
    assert rules.fits(call, own)
    assert rules.fits(rules.failed(call, "late"), own), "a late result still counts"
    assert not rules.fits(again(rules.failed(call, "late")), own)
    assert not rules.fits(replace(call, holder="two"), own)
    assert not rules.fits(call, Attempt("one", 2))


def test_a_refusal_counts_at_the_first_attempt_even_if_it_comes_late() -> None:
    assert rules.counts(begun(NOT_KEYED), NOT_KEYED, REFUSED)
    assert rules.counts(rules.failed(begun(NOT_KEYED), "late"), NOT_KEYED, REFUSED)


def test_a_refusal_after_a_doubt_counts_only_with_a_key() -> None:
    call = again(rules.failed(begun(), "lost"))
    assert rules.counts(call, KEYED, REFUSED)
    assert not rules.counts(call, NOT_KEYED, REFUSED)
    assert rules.counts(call, NOT_KEYED, DONE)


def test_a_refusal_after_a_doubt_counts_only_while_the_key_is_valid() -> None:
    keyed = replace(KEYED, repeatable=True)
    call = again(later(rules.failed(begun(keyed), "late"), DAY - KEYED.timeout), keyed)
    assert rules.counts(call, keyed, REFUSED)
    call = again(later(rules.failed(begun(keyed), "late"), DAY + KEYED.timeout), keyed)
    assert not rules.counts(call, keyed, REFUSED)
    assert rules.counts(call, keyed, DONE)
    assert rules.counts(call, replace(keyed, only_reads=True), REFUSED)


def test_a_refusal_of_a_repeatable_call_says_nothing_of_an_earlier_attempt() -> None:
    call = rules.begun_again(rules.failed(begun(NOT_KEYED), "lost"), REPEATABLE, "two")
    assert isinstance(call, Pended), "it is made again"
    assert not rules.counts(call, REPEATABLE, REFUSED)
    assert rules.counts(call, REPEATABLE, DONE)


def test_a_call_that_only_reads_leaves_no_doubt() -> None:
    reads = replace(NOT_KEYED, only_reads=True)
    call = rules.goes_on(begun(NOT_KEYED), '{"polls": "/jobs/1"}', "it works on it")
    again_read = rules.begun_again(call, reads, "two")
    assert isinstance(again_read, Pended)
    died = rules.begun_again(later(again_read, DAY), reads, "three")
    assert isinstance(died, Pended), "its process died, and nothing happened by that"
    assert not died.is_in_doubt
    assert not rules.failed(died, "lost", only_reads=True).is_in_doubt


def test_a_refusal_counts_without_a_key_where_nothing_happened_before() -> None:
    call = again(rules.not_made(begun(NOT_KEYED)), NOT_KEYED)
    assert rules.counts(call, NOT_KEYED, REFUSED)


# --- Answers -------------------------------------------------------------------------------------


def test_after_a_failure_the_answer_says_when_to_ask_again_and_why() -> None:
    answer = rules.answer_after_failure(rules.failed(begun(), "lost"), KEYED)
    assert (answer.is_pending, answer.retry_after, answer.reason) == (True, 1.0, "lost")


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)]
)
def test_pauses_double_up_to_a_minute(attempt: int, seconds: float) -> None:
    assert rules.pause(attempt) == seconds


def test_after_a_failure_without_a_key_the_answer_is_unknown_at_once() -> None:
    answer = rules.answer_after_failure(rules.failed(begun(NOT_KEYED), "lost"), NOT_KEYED)
    assert answer.outcome is Outcome.UNKNOWN
    assert answer.reason is not None
    assert "(lost)" in answer.reason


def test_a_live_call_is_asked_for_again_when_its_time_is_over() -> None:
    assert begun().reply().retry_after == (KEYED.timeout + MARGIN).total_seconds()


def test_a_relay_that_nothing_tells_asks_again_soon() -> None:
    alone = replace(begun(), reply_to=None, saga=None)
    assert alone.reply().retry_after == 2.0


def test_a_call_whose_answer_comes_on_another_way_is_no_call_any_more() -> None:
    call = rules.answers_later(begun(), Reply(Outcome.ONGOING, value=60.0, reason="a webhook"))
    assert not call.is_call
    assert (call.holder, call.until, call.note) == (None, None, "a webhook")
    assert call.expected_at == NOW + timedelta(seconds=60)
    assert call.reply().retry_after is None
