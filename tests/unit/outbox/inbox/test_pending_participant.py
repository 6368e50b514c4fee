"""The abstract participant of the explorer keeps the rules of answers that come later."""

from __future__ import annotations

import pytest

from orchestrator.machine.transition import Dispatch
from orchestrator.testing.exploring.model.participant import Participant
from orchestrator.testing.exploring.model.rows import (
    CALLING,
    PENDING,
    UNKNOWN,
    Answer,
    Row,
    Task,
    Told,
)
from outbox.replies import Outcome


def command(id: str, *undoes: str) -> Dispatch:
    return Dispatch(id, "step", "hotels", "hotels.any.v1", "key", b"{}", undoes, False, None)


DO, UNDO, UNDO_AGAIN = command("do"), command("undo", "do"), command("undo again", "do")
YES, NO = Answer(Outcome.DONE), Answer(Outcome.REFUSED)
LATE_NO = Answer(Outcome.REFUSED, later=True)
UNDONE = Answer(Outcome.ALREADY_UNDONE)
NOTHING = Answer(Outcome.NOTHING_TO_UNDO)
CALL, SECOND = Answer(Outcome.DONE, call=1), Answer(Outcome.DONE, call=2)


def after(*commands: tuple[Dispatch, Answer], of: Participant | None = None) -> Participant:
    """The participant after these commands and the wishes of their handlers."""
    participant = of or Participant()
    for each, wish in commands:
        participant, _ = participant.receive(each, wish)
    return participant


def told(participant: Participant, to: Dispatch, answer: Answer) -> tuple[str, Told, Participant]:
    """What is in effect once that answer is stored, and what is told."""
    participant, messages = participant.complete(to, answer)
    return participant.effect("step"), messages, participant


def row(participant: Participant, id: str) -> Row:
    return dict(participant.rows)[id].row


# Completed by a person or another service


def test_what_is_pending_is_answered_so_until_it_is_completed_and_then_for_good() -> None:
    begun, answer = Participant().receive(DO, PENDING)
    assert (begun.effect("step"), answer) == ("P", PENDING)
    assert begun.receive(DO, YES) == (begun, PENDING)
    effect, messages, done = told(begun, DO, YES)
    assert (effect, messages) == ("A", (("do", YES),))
    assert done.receive(DO, PENDING) == (done, YES)


@pytest.mark.parametrize("answer", [YES, NO])
def test_a_second_completion_changes_nothing(answer: Answer) -> None:
    _, _, done = told(after((DO, PENDING)), DO, YES)
    assert done.complete(DO, answer) == (done, ())


def test_a_refusal_that_comes_later_is_told_as_such_and_can_be_undone() -> None:
    effect, messages, refused = told(after((DO, PENDING)), DO, NO)
    assert (effect, messages, row(refused, "do")) == ("R", (("do", LATE_NO),), Row.RAN)
    assert refused.receive(UNDO, YES) == (after((UNDO, YES), of=refused), YES)
    assert after((UNDO, YES), of=refused).effect("step") == "AC"


def test_an_undo_compensates_what_is_pending_and_a_completion_comes_too_late() -> None:
    undone = after((DO, PENDING), (UNDO, YES))
    assert (undone.effect("step"), row(undone, "do")) == ("AC", Row.UNDONE)
    assert undone.complete(DO, YES) == (undone, ())
    assert undone.receive(DO, YES) == (undone, UNDONE)


# Compensations that are pending themselves


def test_while_its_compensation_is_pending_an_action_is_undone_for_all_others() -> None:
    undoing = after((DO, YES), (UNDO, PENDING))
    assert (undoing.effect("step"), row(undoing, "do")) == ("A", Row.UNDOING)
    assert undoing.receive(DO, YES) == (undoing, UNDONE)
    assert undoing.receive(UNDO_AGAIN, YES) == (undoing, PENDING)
    assert undoing.complete(DO, YES) == (undoing, ())


def test_a_pending_compensation_that_is_done_has_undone_its_action() -> None:
    effect, messages, undone = told(after((DO, YES), (UNDO, PENDING)), UNDO, YES)
    assert (effect, messages, row(undone, "do")) == ("AC", (("undo", YES),), Row.UNDONE)
    assert undone.receive(UNDO_AGAIN, YES)[1] == NOTHING


@pytest.mark.parametrize(
    ("wish", "was", "letter"), [(YES, Row.RAN, "A"), (PENDING, Row.PENDING, "P")]
)
def test_a_pending_compensation_that_is_refused_leaves_its_action_as_it_was(
    wish: Answer, was: Row, letter: str
) -> None:
    effect, messages, refused = told(after((DO, wish), (UNDO, PENDING)), UNDO, NO)
    assert (effect, messages) == (letter, (("undo", NO),))
    assert (row(refused, "do"), row(refused, "undo")) == (was, Row.REFUSED)
    assert after((UNDO_AGAIN, YES), of=refused).effect("step") == "AC"


# Calls to the outside


def test_a_call_has_one_effect_however_often_it_is_made() -> None:
    called = after((DO, CALLING))
    assert called.effect("step") == ""
    assert called.receive(DO, CALLING) == (called, CALLING)
    dead = called.die(DO, 1, called=True)
    again, answer = dead.receive(DO, CALLING)
    assert (again.effect("step"), answer.call) == ("A", 2)
    effect, messages, _ = told(again, DO, SECOND)
    assert (effect, messages) == ("A", (("do", YES),))


def test_a_call_that_goes_on_bars_an_undo_and_one_whose_time_has_passed_does_not() -> None:
    called = after((DO, CALLING))
    assert called.receive(UNDO, YES) == (called, PENDING)
    for called_before, effect in ((False, ""), (True, "AD")):
        dead = called.die(DO, 1, called=called_before)
        undone = after((UNDO, YES), of=dead)
        assert (undone.effect("step"), row(undone, "do")) == (effect, Row.UNDONE)


def test_a_result_of_a_call_that_was_taken_over_is_not_stored() -> None:
    late = after((DO, CALLING)).overdue(DO, 1, called=False)
    taken_over = after((DO, CALLING), of=late)
    effect, messages, pending = told(taken_over, DO, CALL)
    assert (effect, messages, row(pending, "do")) == ("A", (), Row.PENDING)
    assert told(pending, DO, SECOND)[:2] == ("A", (("do", YES),))


def test_what_was_refused_outside_is_refused_in_every_attempt() -> None:
    late = after((DO, CALLING)).overdue(DO, 1, called=False)
    _, _, refused = told(after((DO, CALLING), of=late), DO, NO._replace(call=2))
    assert refused.tasks == {Task("do", 1)}
    assert not refused.may_end(DO, Outcome.DONE, 1)
    assert told(refused, DO, NO._replace(call=1))[:2] == ("", ())


def test_a_call_that_is_refused_left_nothing_behind() -> None:
    effect, messages, refused = told(after((DO, CALLING)), DO, NO._replace(call=1))
    assert (effect, messages, row(refused, "do")) == ("", (("do", NO),), Row.REFUSED)
    assert refused.receive(UNDO, YES)[1] == NOTHING


@pytest.mark.parametrize("call", [CALL, SECOND])
def test_a_success_after_the_undo_is_told_and_undone_once_more(call: Answer) -> None:
    participant = after((DO, CALLING)).overdue(DO, 1, called=False)
    if call == SECOND:
        participant = after((DO, CALLING), of=participant).overdue(DO, 2, called=False)
    undone = after((UNDO, YES), of=participant)
    effect, messages, late = told(undone, DO, call)
    assert (effect, messages, set(late.late())) == ("A", (("do", YES),), {"do"})
    again = after((UNDO_AGAIN, YES), of=late)
    assert (again.effect("step"), again.late()) == ("AD", frozenset())


def test_a_success_while_its_undo_goes_on_is_told_once_that_is_concluded() -> None:
    late = after((DO, CALLING)).overdue(DO, 1, called=False)
    effect, messages, undoing = told(after((UNDO, CALLING), of=late), DO, CALL)
    assert (effect, messages, row(undoing, "do")) == ("A", (), Row.UNDOING)
    effect, messages, undone = told(undoing, UNDO, CALL)
    assert (effect, messages) == ("AD", (("undo", YES), ("do", YES)))
    assert row(undone, "do") is Row.RAN
    assert after((UNDO_AGAIN, YES), of=undone).effect("step") == "AD"


def test_without_a_promise_for_its_key_nothing_is_called_again_and_the_end_is_unknown() -> None:
    dead = after((DO, CALLING)).die(DO, 1, called=True)
    assert dead.receive(DO, UNKNOWN) == (dead, UNKNOWN)
    assert after((UNDO, YES), of=dead).effect("step") == "AD"


def test_a_compensation_whose_end_is_unknown_gives_its_action_back() -> None:
    undoing = after((DO, YES), (UNDO, CALLING)).overdue(UNDO, 1, called=False)
    given_up = after((UNDO, UNKNOWN), of=undoing)
    assert (row(given_up, "do"), row(given_up, "undo")) == (Row.RAN, Row.RAN)
    assert after((UNDO_AGAIN, YES), of=given_up).effect("step") == "AC"
    effect, messages, undone = told(given_up, UNDO, CALL)
    assert (effect, messages, row(undone, "do")) == ("AD", (("undo", YES),), Row.UNDONE)


def test_a_call_may_be_answered_that_it_goes_on_outside_and_is_completed_by_a_message() -> None:
    effect, messages, pending = told(after((DO, CALLING)), DO, PENDING._replace(call=1))
    assert (effect, messages, pending.pending()) == ("P", (), ["do"])
    assert told(pending, DO, YES)[:2] == ("A", (("do", YES),))
