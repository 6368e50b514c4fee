"""A person skips a stuck step whose command may have run: its participant is asked first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.machine.signals import (
    ACCEPTED,
    Buried,
    Pause,
    Replied,
    Resume,
    Skip,
    TimerFired,
    TimerKind,
)
from orchestrator.machine.skipping import ASKED
from orchestrator.machine.transition import Happening
from orchestrator.store.records import Record
from outbox.contract import Void
from outbox.replies import PENDING, Outcome, Reply
from outbox.wire.codec import decode
from tests.support.orchestrator.skips import (
    SEAT_AT_LAST,
    WHO,
    skipped,
    stuck_at_pivot,
    stuck_at_undo,
)
from tests.support.orchestrator.story import (
    DONE,
    LOCKED,
    NOTHING,
    ONGOING,
    REFUSED,
    SEAT_7,
    Story,
    outcome,
)
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    DEAF_SEAT,
    ONE_WAY_ROOM,
    ROOM,
    SEAT,
    trip,
)


def test_what_may_have_run_is_asked_about_before_it_is_skipped() -> None:
    story = stuck_at_pivot()
    pivot = story.awaited("charge")
    skipped(story, "charge")
    (void,) = story.last.commands
    assert story.sent == ["void charge"]
    assert (void.participant, void.is_void, void.undoes) == ("payments", True, ())
    assert (void.urgent, void.expires, void.due) == (True, None, story.now)
    assert decode(Void, void.data) == Void([pivot], void.key)
    assert void.key == story.run.id + "/charge"
    assert void.id not in {pivot, *story.step("charge").action_ids}
    assert story.last.withdrawn == (pivot,), "it goes to its participant no more"
    assert (story.status, story.step("charge").status) == (Status.STUCK, StepStatus.STUCK)
    assert story.step("charge").reason == ASKED
    assert story.happened == [Happening.OPERATOR, Happening.SENT]
    assert "skip" in allowed_signals(BOOKING, story.run)


def test_every_command_of_the_step_is_asked_about_and_the_last_one_decides() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    story.answers("send ticket", reply=REFUSED).repeat("send ticket").buried("send ticket")
    skipped(story, "send ticket")
    assert decode(Void, story.last.commands[0].data).ids == list(
        story.step("send ticket").action_ids
    )
    assert story.tells("send ticket", "ran", DONE).step("send ticket").status is StepStatus.DONE


def test_what_was_answered_for_good_is_skipped_at_once() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    for _ in range(2):
        story.answers("send ticket", reply=REFUSED).repeat("send ticket")
    skipped(story.answers("send ticket", reply=REFUSED), "send ticket")
    assert (story.sent, story.status) == ([], Status.COMPLETED)
    assert story.step("send ticket").status is StepStatus.SKIPPED


def test_an_undo_that_was_never_sent_is_skipped_at_once() -> None:
    story = Story(trip(SEAT, ONE_WAY_ROOM, CHARGE)).answers("reserve seat", "reserve room")
    skipped(story.answers("charge", reply=REFUSED), "reserve room")
    assert story.step("reserve room").status is StepStatus.SKIPPED
    assert story.sent == ["undo reserve seat"]


def test_a_result_that_does_not_fit_is_refused_before_anything_is_asked() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    before = story.run
    with pytest.raises(InvalidInput, match="the result given for step 'reserve seat' cannot be"):
        story.hears(Skip("reserve seat", *WHO, result={"number": 9}))
    assert story.run is before


# The answer, forward


@pytest.mark.parametrize("state", ["absent", "pending", "refused", "barred", "undone"])
def test_what_did_not_run_is_passed_over_with_the_result_given(state: str) -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    story.tells("reserve seat", state, REFUSED if state == "refused" else None)
    assert story.step("reserve seat").status is StepStatus.SKIPPED
    assert (story.status, story.run.state.seat) == (Status.COMPLETED, "9")
    assert story.last.history[0].detail == "its command did not run"


def test_what_ran_is_done_with_its_own_answer_and_not_with_the_result_given() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    story.tells("reserve seat", "ran", SEAT_7)
    assert story.step("reserve seat").status is StepStatus.DONE
    assert (story.status, story.run.state.seat) == (Status.COMPLETED, "7")
    assert story.last.history[0].detail == "its command ran"


def test_what_was_refused_after_its_writes_were_kept_is_passed_over() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    story.tells("charge", "ran", outcome("refused", after_pending=True))
    assert story.step("charge").status is StepStatus.SKIPPED
    assert story.sent == ["do send ticket"]


def test_an_answer_that_the_saga_cannot_take_in_keeps_the_step_stuck() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    story.tells("reserve seat", "ran", outcome("done", value={"number": 7}))
    step = story.step("reserve seat")
    assert (step.status, step.skip) == (StepStatus.STUCK, None)
    assert (step.reason or "").startswith("its answer could not be taken in: ")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    assert (story.sent, story.run.state.seat) == ([], "9"), "it is known to have run"


def test_a_result_that_no_longer_fits_keeps_the_step_stuck() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    story.saga = trip(ROOM, replace(SEAT_AT_LAST.steps[1], on_reply=DEAF_SEAT.on_reply))
    story.tells("reserve seat", "absent")
    step = story.step("reserve seat")
    assert (step.status, step.skip) == (StepStatus.STUCK, None)
    assert (step.reason or "").startswith("the result given for step 'reserve seat' cannot be")


# The answer, backward


@pytest.mark.parametrize("reply", [DONE, NOTHING], ids=str)
def test_an_undo_that_ran_has_undone_its_step(reply: Reply) -> None:
    story = stuck_at_undo()
    undo = story.awaited("reserve room")
    skipped(story, "reserve room")
    assert decode(Void, story.last.commands[0].data).ids == [undo]
    story.tells("reserve room", "ran", reply)
    assert story.step("reserve room").status is StepStatus.UNDONE
    assert story.sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED
    assert story.run.not_undone == ()


@pytest.mark.parametrize(
    ("state", "reply"),
    [("absent", None), ("pending", None), ("refused", REFUSED), ("ran", outcome("unknown"))],
)
def test_an_undo_that_did_not_run_leaves_its_step_in_place(state: str, reply: Reply | None) -> None:
    story = skipped(stuck_at_undo(), "reserve room").tells("reserve room", state, reply)
    assert story.step("reserve room").status is StepStatus.SKIPPED
    assert story.sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.RESOLVED
    assert story.run.not_undone == ("reserve room",)


# Answers that are late, twice, or do not tell


def test_the_answer_decides_once_however_often_it_comes() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    void, told = story.void("charge"), story.told("charge", "absent")
    story.tells("charge", "absent").answers("send ticket")
    before = replace(story.step("charge"), notes=0)
    for reply in (told, Reply(Outcome.DONE)):
        story.late(void, reply)
        assert replace(story.step("charge"), notes=0) == before
        assert (story.happened, story.run.stray_effects) == ([Happening.LATE_ANSWER], ())


@pytest.mark.parametrize(
    "value", [None, 7, {}, {"other": {"state": "ran"}}, "one", ["ran"], {"X": {"state": "ran"}}]
)
def test_an_answer_that_tells_nothing_leaves_it_to_the_person(value: object) -> None:
    story = skipped(stuck_at_pivot(), "charge")
    pivot = story.awaited("charge")
    if value == {"X": {"state": "ran"}}:
        value = {pivot: {"state": "ran"}}  # without the reply
    story.late(story.void("charge"), Reply(Outcome.DONE, value=value))
    assert story.step("charge").status is StepStatus.STUCK
    assert story.step("charge").reason == (
        "it is not skipped yet, since its participant's answer cannot be read: done; skip it again "
        "to go on without that answer, or retry it"
    )
    assert skipped(story, "charge").sent == ["do send ticket"]


@pytest.mark.parametrize("outcome_", ["refused", "too-old", "expired", "unknown"])
def test_an_answer_of_another_kind_leaves_it_to_the_person(outcome_: str) -> None:
    story = skipped(stuck_at_pivot(), "charge")
    story.late(story.void("charge"), outcome(outcome_))
    assert story.step("charge").status is StepStatus.STUCK
    assert f"since its participant answered {outcome_}; skip" in str(story.step("charge").reason)


def test_a_question_that_became_a_dead_letter_leaves_it_to_the_person() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    story.hears(Buried(story.void("charge"), "no receiver"))
    assert story.step("charge").reason == (
        "it is not skipped yet, since the question became a dead letter of the orchestrator "
        "(sagabox dead-letters): no receiver; skip it again to go on without that answer, or retry "
        "it"
    )
    by_message = skipped(stuck_at_pivot(), "charge")
    by_message.hears(Replied(by_message.void("charge"), Reply(Outcome.REJECTED), "payments"))
    assert "since the question was given up by the consumer of payments: rejected; skip" in str(
        by_message.step("charge").reason
    )
    # A copy may still be answered.
    assert by_message.tells("charge", "absent").sent == ["do send ticket"]


def test_an_answer_from_a_stranger_does_not_count() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    before = story.step("charge")
    story.hears(Replied(story.void("charge"), story.told("charge", "absent"), "strangers"))
    assert story.step("charge") == before
    assert story.happened == [Happening.REJECTED_ANSWER]
    story.hears(Replied(story.void("charge"), story.told("charge", "absent"), "payments"))
    assert story.sent == ["do send ticket"]


# Asking again


def test_a_question_that_was_only_accepted_is_asked_again_until_it_is_answered() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    void = story.void("charge")
    first = story.last.commands[0]
    pauses = []
    for _ in range(3):
        pauses.append(story.late(void, ACCEPTED).pause())
        assert story.late(void, ACCEPTED).last.timers == ()
        story.hears(TimerFired(TimerKind.REPEAT, void))
        assert story.last.commands == (first,)
        assert story.happened == []
    assert pauses == [60, 120, 240]
    assert story.tells("charge", "absent").sent == ["do send ticket"]


@pytest.mark.parametrize(
    "reply", [ONGOING, Reply(Outcome.ONGOING, code=PENDING, retry_after=30)], ids=str
)
def test_a_question_that_meets_what_is_under_way_is_asked_again_at_its_time(reply: Reply) -> None:
    story = skipped(stuck_at_pivot(), "charge")
    void = story.void("charge")
    assert story.late(void, reply).pause() == 30
    assert story.step("charge").status is StepStatus.STUCK
    story.hears(TimerFired(TimerKind.REPEAT, void))
    assert story.sent == ["void charge"]
    assert story.late(void, LOCKED).pause() == 60


def test_what_the_relay_goes_on_delivering_changes_nothing() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    before = story.step("charge")
    for it in ("failed", "too-busy", "not-attempted", "rejected"):
        story.late(story.void("charge"), outcome(it))
        assert (story.step("charge"), story.last.timers) == (before, ())


def test_a_paused_run_asks_after_the_pause() -> None:
    story = skipped(stuck_at_pivot().hears(Pause(*WHO)), "charge")
    assert story.sent == []
    assert story.hears(Resume(*WHO)).sent == ["void charge"]


def test_the_timer_of_a_question_is_kept_as_long_as_it_is_asked() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    void = story.void("charge")
    record = Record(story.run).after(story.late(void, ACCEPTED).last, story.now)
    assert [(it.kind, it.command_id) for it in record.timers] == [(TimerKind.REPEAT, void)]
    record = record.after(story.tells("charge", "absent").last, story.now)
    assert void not in {it.command_id for it in record.timers}
