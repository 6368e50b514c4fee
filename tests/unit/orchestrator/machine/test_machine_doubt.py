"""It is unknown whether a command ran: its answer is overdue, or it became a dead letter."""

from __future__ import annotations

import pytest

from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import Pause, Resume, TimerFired, TimerKind
from orchestrator.machine.transition import Happening
from tests.support.orchestrator.story import REFUSED, RUN_ID, Story, outcome
from tests.support.orchestrator.trips import BOOKING, DEADLINE, WITHOUT_PIVOT

OVERDUE = "no definite answer by its deadline"
UNTELLABLE = ["too-old", "unknown", "nothing-to-undo"]


def at_pivot() -> Story:
    return Story(BOOKING).answers("reserve seat", "reserve room")


def test_a_compensatable_step_without_an_answer_by_its_deadline_is_undone_too() -> None:
    story = Story(BOOKING).answers("reserve seat")
    first = story.awaited("reserve room")
    story.deadline("reserve room")
    assert story.sent == ["undo reserve room"]
    assert story.last.commands[0].undoes == (first,)
    assert story.last.withdrawn == (first,)
    assert story.happened == [Happening.OVERDUE, Happening.TURNED_BACK, Happening.SENT]
    assert story.answers("reserve room").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED


def test_a_buried_compensatable_step_is_undone_too() -> None:
    story = Story(BOOKING).answers("reserve seat").buried("reserve room")
    assert story.sent == ["undo reserve room"]
    assert story.happened == [Happening.BURIED, Happening.TURNED_BACK, Happening.SENT]
    assert story.history[-2].detail == (
        "step 'reserve room' is in doubt: its command became a dead letter of the orchestrator "
        "(sagabox dead-letters): no receiver"
    )


@pytest.mark.parametrize("answer", UNTELLABLE)
def test_a_compensatable_step_whose_outcome_is_unknown_is_undone_too(answer: str) -> None:
    story = Story(BOOKING).answers("reserve seat", reply=outcome(answer))
    assert story.sent == ["undo reserve seat"]


@pytest.mark.parametrize("step", ["charge", "send ticket"])
def test_beyond_return_an_overdue_step_is_asked_again_until_it_is_known(step: str) -> None:
    story = at_pivot() if step == "charge" else at_pivot().answers("charge")
    (first,) = story.last.commands
    for _ in range(20):
        story.deadline(step)
        assert story.last.commands == (first,)
        assert story.timer(TimerKind.DEADLINE).due == story.now + DEADLINE
        assert [timer.kind for timer in story.last.timers] == [TimerKind.DEADLINE]
        assert story.step(step).status is StepStatus.IN_DOUBT
        assert story.step(step).reason == OVERDUE
        assert story.status is Status.RUNNING
    assert story.answers(step).step(step).status is StepStatus.DONE


def test_a_pivot_in_doubt_that_turns_out_to_be_refused_turns_the_run_back() -> None:
    story = at_pivot().deadline("charge").answers("charge", reply=REFUSED)
    assert story.sent == ["undo reserve room"]


def test_without_a_pivot_the_first_retriable_step_in_doubt_is_repeated() -> None:
    story = Story(WITHOUT_PIVOT).answers("reserve seat", "reserve room").deadline("send ticket")
    assert story.sent == ["do send ticket"]


@pytest.mark.parametrize("step", ["charge", "send ticket"])
def test_beyond_return_a_buried_step_makes_the_run_stuck(step: str) -> None:
    story = at_pivot() if step == "charge" else at_pivot().answers("charge")
    story.buried(step)
    assert story.status is Status.STUCK
    assert story.step(step).reason == (
        "its command became a dead letter of the orchestrator (sagabox dead-letters): no receiver"
    )
    assert story.sent == []


@pytest.mark.parametrize("answer", UNTELLABLE)
@pytest.mark.parametrize("step", ["charge", "send ticket"])
def test_beyond_return_a_step_whose_outcome_is_unknown_makes_the_run_stuck(
    step: str, answer: str
) -> None:
    story = at_pivot() if step == "charge" else at_pivot().answers("charge")
    assert story.answers(step, reply=outcome(answer)).status is Status.STUCK


def test_an_answer_that_comes_after_all_ends_the_doubt_about_a_buried_pivot() -> None:
    story = at_pivot().buried("charge").answers("charge")
    assert story.sent == ["do send ticket"]
    assert story.status is Status.RUNNING


def test_a_refusal_that_comes_after_all_turns_a_run_back_that_is_stuck_at_its_pivot() -> None:
    story = at_pivot().buried("charge").answers("charge", reply=REFUSED)
    assert story.sent == ["undo reserve room"]
    assert story.status is Status.COMPENSATING


def test_a_stuck_retriable_step_that_is_refused_after_all_stays_stuck() -> None:
    story = at_pivot().answers("charge").buried("send ticket")
    story.answers("send ticket", reply=REFUSED)
    assert story.status is Status.STUCK
    assert story.last.timers == ()
    assert story.step("send ticket").reason == (
        "it was still answered refused: full: nothing is left"
    )


def test_an_undo_without_an_answer_by_its_deadline_is_asked_again() -> None:
    story = Story(BOOKING).deadline("reserve seat")
    (first,) = story.last.commands
    for _ in range(5):
        story.deadline("reserve seat")
        assert story.last.commands == (first,)
        assert story.step("reserve seat").status is StepStatus.UNDOING
        assert story.step("reserve seat").reason == OVERDUE
    assert story.answers("reserve seat").status is Status.COMPENSATED


# Timers that mean nothing


def test_a_timer_of_an_answered_command_means_nothing() -> None:
    story = Story(BOOKING)
    first = story.awaited("reserve seat")
    story.answers("reserve seat")
    before = story.run
    for kind in TimerKind:
        story.hears(TimerFired(kind, first))
        assert story.run == before
        assert (story.sent, story.happened) == ([], [])


def test_a_timer_of_an_unknown_command_means_nothing() -> None:
    story = Story(BOOKING)
    before = story.run
    assert story.hears(TimerFired(TimerKind.DEADLINE, RUN_ID)).run == before


def test_a_deadline_means_nothing_while_a_refused_retriable_step_waits() -> None:
    story = at_pivot().answers("charge").answers("send ticket", reply=REFUSED)
    before = story.run
    story.deadline("send ticket")
    assert story.run == before
    assert story.sent == []


def test_a_deadline_while_a_locked_pivot_waits_is_shown_and_leaves_the_wait_as_it_is() -> None:
    story = at_pivot().answers("charge", reply=outcome("ongoing")).deadline("charge")
    assert story.sent == []
    assert story.happened == [Happening.OVERDUE]
    assert story.step("charge").status is StepStatus.SENT
    story.repeat("charge")
    assert story.sent == ["do charge"]
    assert story.timer(TimerKind.DEADLINE).due == story.now + DEADLINE


def test_a_deadline_means_nothing_while_a_step_is_stuck() -> None:
    story = at_pivot().buried("charge")
    before = story.run
    for kind in TimerKind:
        story.hears(TimerFired(kind, story.awaited("charge")))
        assert story.run == before


# A pause


def test_a_deadline_that_passes_during_a_pause_turns_nothing_back() -> None:
    story = Story(BOOKING).hears(Pause("ann", "maintenance")).deadline("reserve seat")
    assert (story.sent, story.status) == ([], Status.RUNNING)
    assert story.step("reserve seat").status is StepStatus.IN_DOUBT
    first = story.awaited("reserve seat")
    story.hears(Resume("ann", "done"))
    assert story.sent == ["do reserve seat"]
    assert story.awaited("reserve seat") == first
    assert story.last.commands[0].expires == story.now + DEADLINE
    assert story.timer(TimerKind.DEADLINE).due == story.now + DEADLINE
    assert story.deadline("reserve seat").sent == ["undo reserve seat"]


def test_an_overdue_pivot_is_asked_again_only_after_the_pause() -> None:
    story = at_pivot().hears(Pause("ann", "maintenance")).deadline("charge").deadline("charge")
    assert story.sent == []
    assert story.happened == []
    assert story.hears(Resume("ann", "done")).sent == ["do charge"]


def test_a_burial_during_a_pause_turns_the_run_back_and_sends_nothing_before_its_end() -> None:
    story = Story(BOOKING).hears(Pause("ann", "maintenance")).buried("reserve seat")
    assert (story.sent, story.status) == ([], Status.COMPENSATING)
    assert story.hears(Resume("ann", "done")).sent == ["undo reserve seat"]
