"""What comes while the participant of a skipped step is asked whether its command ran."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import (
    Cancel,
    Resolve,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.machine.skipping import ASKED
from orchestrator.machine.transition import Happening
from orchestrator.store.records import record_of
from outbox.replies import Reply
from tests.support.orchestrator.skips import (
    SEAT_AT_LAST,
    UNDONE,
    WHO,
    skipped,
    stuck_at_pivot,
    stuck_at_ticket,
    stuck_at_undo,
)
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import (
    DONE,
    NOTHING,
    REFUSED,
    SEAT_7,
    Story,
    outcome,
)
from tests.support.orchestrator.trips import (
    SIDE_BY_SIDE,
)


def test_a_success_that_comes_before_the_answer_is_taken_in() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    void = story.void("charge")
    told = story.told("charge", "ran", DONE)
    story.answers("charge")
    assert (story.step("charge").status, story.step("charge").skip) == (StepStatus.DONE, None)
    assert void in story.last.withdrawn
    assert story.sent == ["do send ticket"]
    story.late(void, told)
    assert story.happened == [Happening.LATE_ANSWER]
    assert (story.step("charge").status, story.run.stray_effects) == (StepStatus.DONE, ())


@pytest.mark.parametrize("reply", [REFUSED, UNDONE, outcome("expired")], ids=str)
@pytest.mark.parametrize("stuck", [stuck_at_pivot, stuck_at_ticket])
def test_a_definite_no_that_comes_before_the_answer_lets_the_skip_go_on(
    stuck: object, reply: Reply
) -> None:
    step = "charge" if stuck is stuck_at_pivot else "send ticket"
    story = skipped(stuck_at_pivot() if step == "charge" else stuck_at_ticket(), step)
    story.answers(step, reply=reply)
    assert story.step(step).status is StepStatus.SKIPPED
    assert story.run.direction.value == "forward"


@pytest.mark.parametrize("reply", [DONE, NOTHING], ids=str)
def test_the_success_of_an_undo_that_comes_before_the_answer_counts(reply: Reply) -> None:
    story = skipped(stuck_at_undo(), "reserve room").answers("reserve room", reply=reply)
    assert story.step("reserve room").status is StepStatus.UNDONE
    assert story.run.not_undone == ()


def test_a_no_to_an_undo_that_comes_before_the_answer_leaves_its_step_in_place() -> None:
    story = skipped(stuck_at_undo(), "reserve room").answers("reserve room", reply=REFUSED)
    assert story.step("reserve room").status is StepStatus.SKIPPED
    assert story.run.not_undone == ("reserve room",)


@pytest.mark.parametrize("answer", ["too-old", "unknown", "nothing-to-undo"])
def test_what_does_not_tell_whether_it_ran_leaves_the_question_open(answer: str) -> None:
    story = skipped(stuck_at_pivot(), "charge")
    before = story.step("charge")
    story.answers("charge", reply=outcome(answer))
    assert replace(story.step("charge"), notes=before.notes) == before
    assert story.tells("charge", "absent").sent == ["do send ticket"]


def test_a_burial_of_the_command_leaves_the_question_open() -> None:
    story = skipped(stuck_at_pivot(), "charge").buried("charge")
    assert story.step("charge").reason == ASKED
    assert story.happened == [Happening.BURIED]


# What persons do meanwhile


def test_a_second_skip_goes_on_without_the_answer_and_lets_the_question_bar_the_command() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    void = story.void("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "8"}))
    assert story.step("reserve seat").status is StepStatus.SKIPPED
    assert (story.status, story.run.state.seat) == (Status.COMPLETED, "8")
    assert void not in story.last.withdrawn


def test_a_second_skip_of_an_undo_leaves_its_step_in_place() -> None:
    story = skipped(skipped(stuck_at_undo(), "reserve room"), "reserve room")
    assert story.step("reserve room").status is StepStatus.SKIPPED
    assert story.sent == ["undo reserve seat"]
    assert story.run.not_undone == ("reserve room",)


def test_a_retry_drops_the_skip_and_sends_the_command_again() -> None:
    story = stuck_at_pivot()
    pivot = story.awaited("charge")
    skipped(story, "charge")
    void, told = story.void("charge"), story.told("charge", "absent")
    story.hears(Retry("charge", *WHO))
    assert [it.id for it in story.last.commands] == [pivot]
    assert void in story.last.withdrawn
    story.late(void, told)
    assert story.step("charge").status is StepStatus.SENT
    assert story.answers("charge").sent == ["do send ticket"]


def test_a_pivot_that_the_question_barred_before_it_was_retried_has_not_happened() -> None:
    story = skipped(stuck_at_pivot(), "charge").hears(Retry("charge", *WHO))
    story.answers("charge", reply=UNDONE)
    assert story.step("charge").status is StepStatus.REFUSED
    assert story.sent == ["undo reserve room"]


def test_a_retriable_step_that_the_question_barred_before_it_was_retried_is_tried_anew() -> None:
    story = skipped(stuck_at_ticket(), "send ticket").hears(Retry("send ticket", *WHO))
    first = story.awaited("send ticket")
    story.answers("send ticket", reply=UNDONE).repeat("send ticket")
    assert story.sent == ["do send ticket"]
    assert story.awaited("send ticket") != first


def test_an_undo_that_the_question_barred_before_it_was_retried_is_tried_anew() -> None:
    story = skipped(stuck_at_undo(), "reserve room").hears(Retry("reserve room", *WHO))
    first = story.awaited("reserve room")
    story.answers("reserve room", reply=UNDONE).repeat("reserve room")
    assert story.sent == ["undo reserve room"]
    assert story.awaited("reserve room") != first


def test_what_is_retried_and_skipped_again_is_asked_about_under_a_new_id() -> None:
    story = skipped(stuck_at_pivot(), "charge")
    first = story.void("charge")
    skipped(story.hears(Retry("charge", *WHO)).buried("charge"), "charge")
    assert story.sent == ["void charge"]
    assert story.void("charge") != first
    assert story.step("charge").void_ids == (first, story.void("charge"))
    assert story.tells("charge", "barred").sent == ["do send ticket"]


def test_a_run_that_is_ended_by_hand_drops_the_question_and_lists_the_step() -> None:
    for end in (Terminate(*WHO), Resolve(*WHO)):
        story = skipped(stuck_at_pivot(), "charge")
        void, told = story.void("charge"), story.told("charge", "ran", DONE)
        story.hears(end)
        assert void in story.last.withdrawn
        assert "charge" in story.run.not_undone
        story.late(void, told)
        assert (story.sent, story.run.stray_effects) == ([], ())


def test_a_run_that_turns_back_meanwhile_undoes_the_step_and_drops_the_question() -> None:
    """Beside the stuck step another one is refused, or a person cancels the run."""
    for turn in (None, Cancel(*WHO)):
        story = Story(SIDE_BY_SIDE)
        # Only a step that cannot be undone gets stuck over an unanswered command by itself.
        run = replace(story.step("reserve seat"), status=StepStatus.STUCK)
        steps = {**story.run.steps, "reserve seat": run}
        story.last = replace(story.last, instance=replace(story.run, steps=steps))
        story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
        void, told = story.void("reserve seat"), story.told("reserve seat", "ran", SEAT_7)
        if turn is None:
            story.answers("reserve room", reply=REFUSED)
        else:
            story.hears(turn)
        assert void in story.last.withdrawn
        assert "undo reserve seat" in story.sent
        story.late(void, told)
        assert story.happened == [Happening.LATE_ANSWER]
        assert story.step("reserve seat").status is StepStatus.UNDOING


# Stored


def test_a_skip_that_waits_is_stored_with_the_run_and_a_row_of_older_code_has_none() -> None:
    story = Story(SEAT_AT_LAST).answers("reserve room").buried("reserve seat")
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    row = row_of(story.run, SEAT_AT_LAST)
    assert record_of(row, SEAT_AT_LAST).instance == story.run
    older = row_of(story.run, SEAT_AT_LAST, "skip", "void_ids")
    read = record_of(older, SEAT_AT_LAST).instance.steps["reserve seat"]
    assert read == replace(story.step("reserve seat"), skip=None, void_ids=())
