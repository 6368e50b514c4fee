"""Answers that no run awaits: duplicates, late ones, and ones to commands never sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.machine.instance import Status, StepStatus, StrayEffect
from orchestrator.machine.signals import Buried, Replied, Retry, Skip, Terminate
from orchestrator.machine.transition import Happening
from orchestrator.machine.transition_builder import MAX_NOTES
from orchestrator.machine.turning_back import MAX_UNDOS
from orchestrator.store.records import record_of
from outbox.ids import derive
from outbox.replies import Outcome, Reply
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import (
    DONE,
    LOCKED,
    NOTHING,
    REFUSED,
    RUN_ID,
    SEAT_7,
    Story,
    outcome,
)
from tests.support.orchestrator.trips import BOOKING, DEAF_SEAT, trip

EVERY_OUTCOME = [Reply(each) for each in Outcome]
STRANGER = derive(RUN_ID, "never sent")


def on_its_way_back() -> tuple[Story, str]:
    """The room was in doubt and is undone; the seat is being undone. The id is the room's."""
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    return story.deadline("reserve room").answers("reserve room", reply=NOTHING), room


def decided(story: Story) -> object:
    """How the run stands, without what was only noted."""
    run = story.run
    return replace(
        run,
        strays=0,
        stray_effects=(),
        steps={k: replace(v, notes=0) for k, v in run.steps.items()},
    )


# Duplicates


@pytest.mark.parametrize("reply", EVERY_OUTCOME, ids=lambda reply: reply.outcome)
def test_a_second_answer_to_a_command_is_noted_and_changes_nothing(reply: Reply) -> None:
    story = Story(BOOKING)
    seat = story.awaited("reserve seat")
    before = decided(story.answers("reserve seat"))
    story.late(seat, reply)
    assert decided(story) == before
    assert (story.sent, story.last.timers) == ([], ())
    assert story.happened == [Happening.LATE_ANSWER]
    assert story.last.history[0].command_id == seat
    assert story.last.history[0].detail.startswith(reply.outcome.value)


@pytest.mark.parametrize("reply", EVERY_OUTCOME, ids=lambda reply: reply.outcome)
def test_a_second_answer_to_a_refused_command_uses_up_no_try(reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    story.answers("send ticket", reply=REFUSED)
    before = decided(story)
    story.late(story.awaited("send ticket"), reply)
    assert decided(story) == before
    assert story.happened == [Happening.LATE_ANSWER]


def test_an_answer_to_an_earlier_attempt_does_not_advance_the_later_one() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    first = story.awaited("send ticket")
    story.answers("send ticket", reply=REFUSED).repeat("send ticket").late(first, DONE)
    assert story.status is Status.RUNNING
    assert story.happened == [Happening.LATE_ANSWER]
    assert story.answers("send ticket").status is Status.COMPLETED


def test_an_answer_to_an_earlier_undo_does_not_advance_the_later_one() -> None:
    story = Story(BOOKING).deadline("reserve seat")
    first = story.awaited("reserve seat")
    story.answers("reserve seat", reply=REFUSED).repeat("reserve seat").late(first, DONE)
    assert story.status is Status.COMPENSATING


def test_a_second_answer_to_a_kept_one_does_not_replace_it() -> None:
    story = Story(trip(DEAF_SEAT)).answers("reserve seat")
    story.late(story.awaited("reserve seat"), outcome("done", value={"number": "8"}))
    assert story.happened == [Happening.LATE_ANSWER]
    assert story.step("reserve seat").kept == SEAT_7


@pytest.mark.parametrize("reply", [LOCKED, outcome("failed")])
def test_a_not_yet_changes_nothing_about_a_stuck_step(reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room").buried("charge")
    before = decided(story)
    story.answers("charge", reply=reply)
    assert decided(story) == before
    assert story.happened == [Happening.LATE_ANSWER]


def test_a_burial_of_an_answered_command_is_noted_and_changes_nothing() -> None:
    story = Story(BOOKING)
    seat = story.awaited("reserve seat")
    before = decided(story.answers("reserve seat"))
    story.hears(Buried(seat, "no receiver"))
    assert decided(story) == before
    assert story.happened == [Happening.BURIED]


def test_a_burial_of_a_refused_command_that_waits_to_be_replaced_changes_nothing() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    story.answers("send ticket", reply=REFUSED)
    before = decided(story)
    assert decided(story.buried("send ticket")) == before


def test_a_burial_of_an_earlier_attempt_changes_nothing() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    first = story.awaited("send ticket")
    before = decided(story.answers("send ticket", reply=REFUSED).repeat("send ticket"))
    assert decided(story.hears(Buried(first, "no receiver"))) == before


# Late successes of undone actions


def test_a_late_success_of_an_undone_action_is_undone_once_more_under_a_new_id() -> None:
    story, room = on_its_way_back()
    first = story.step("reserve room").undo_ids
    story.late(room, DONE)
    assert story.sent == ["undo reserve room"]
    assert story.last.commands[0].undoes == (room,)
    assert story.step("reserve room").status is StepStatus.UNDOING
    assert story.awaited("reserve room") not in first
    story.answers("reserve seat")
    assert story.status is Status.COMPENSATING
    assert story.answers("reserve room", reply=NOTHING).status is Status.COMPENSATED


@pytest.mark.parametrize("reply", [DONE, NOTHING], ids=str)
def test_a_success_told_while_the_undo_is_on_its_way_is_undone_once_more_after_it(
    reply: Reply,
) -> None:
    """A call to the outside that ended well after the undo is told by a message, which may overtake
    the undo's own answer."""
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    first = story.deadline("reserve room").awaited("reserve room")
    story.hears(Replied(room, DONE, "hotels"))
    assert (story.sent, story.awaited("reserve room")) == ([], first)
    stored = record_of(row_of(story.run, BOOKING), BOOKING).instance
    assert stored == story.run
    story.answers("reserve room", reply=reply)
    assert story.sent == ["undo reserve room"], "and not yet the seat's"
    assert story.awaited("reserve room") != first
    story.answers("reserve room", reply=NOTHING)
    assert story.sent == ["undo reserve seat"]


def test_a_success_told_before_an_undo_is_tried_anew_is_left_to_the_new_one() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.deadline("reserve room").hears(Replied(room, DONE, "hotels"))
    story.answers("reserve room", reply=REFUSED).repeat("reserve room").answers("reserve room")
    assert story.sent == ["undo reserve seat"]


def test_a_late_success_while_the_undo_is_on_its_way_is_left_to_that_undo() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.deadline("reserve room").late(room, DONE)
    assert story.sent == []
    assert story.step("reserve room").status is StepStatus.UNDOING
    assert story.happened == [Happening.LATE_ANSWER]


def test_a_late_success_of_an_action_that_had_been_refused_is_undone() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.answers("reserve room", reply=REFUSED).late(room, DONE)
    assert story.sent == ["undo reserve room"]


@pytest.mark.parametrize("name", ["refused", "already-undone", "expired", "locked", "failed"])
def test_only_a_late_success_is_undone_once_more(name: str) -> None:
    story, room = on_its_way_back()
    story.late(room, outcome(name))
    assert story.sent == []
    assert story.step("reserve room").status is StepStatus.UNDONE


def test_a_late_success_of_an_undo_is_only_noted() -> None:
    story, _ = on_its_way_back()
    story.late(story.step("reserve room").undo_ids[0], DONE)
    assert story.sent == []
    assert story.step("reserve room").status is StepStatus.UNDONE


def test_a_late_success_of_a_refused_pivot_is_a_stray_effect() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    pivot = story.awaited("charge")
    before = decided(story.answers("charge", reply=REFUSED))
    assert decided(story.late(pivot, DONE)) == before
    assert story.happened == [Happening.LATE_ANSWER, Happening.STRAY_EFFECT]
    assert story.run.stray_effects == (StrayEffect("charge", pivot, story.now),)


def test_an_action_that_reports_success_again_and_again_makes_the_run_stuck() -> None:
    story, room = on_its_way_back()
    while len(story.step("reserve room").undo_ids) < MAX_UNDOS:
        story.late(room, DONE).answers("reserve room", reply=NOTHING)
    story.late(room, DONE)
    assert story.sent == []
    assert story.status is Status.STUCK
    assert story.step("reserve room").reason == (
        f"its action still reports success after {MAX_UNDOS} compensations"
    )
    story.hears(Retry("reserve room", "ann", "looked"))
    assert story.sent == ["undo reserve room"]


# After the end


@pytest.mark.parametrize("reply", EVERY_OUTCOME, ids=lambda reply: reply.outcome)
@pytest.mark.parametrize(
    "end", [Status.COMPLETED, Status.COMPENSATED, Status.TERMINATED, Status.RESOLVED]
)
def test_nothing_brings_an_ended_run_back(end: Status, reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    if end is Status.COMPLETED:
        story.answers("reserve room", "charge", "send ticket")
    elif end is Status.COMPENSATED:
        story.deadline("reserve room").answers("reserve room", "reserve seat")
    elif end is Status.TERMINATED:
        story.hears(Terminate("ann", "enough"))
    else:
        story.deadline("reserve room").buried("reserve room")
        story.hears(Skip("reserve room", "ann", "by hand")).tells("reserve room", "absent")
        story.answers("reserve seat")
    assert story.status is end
    before = decided(story)
    for id in (room, STRANGER):
        story.hears(Replied(id, reply), Buried(id, "no receiver"))
        assert decided(story) == before
        assert (story.sent, story.last.timers, story.last.withdrawn) == ([], (), ())


# Strangers, and the bounds of the history


def test_an_answer_to_a_command_that_was_never_sent_is_noted_and_changes_nothing() -> None:
    story = Story(BOOKING)
    before = decided(story)
    story.late(STRANGER, DONE)
    assert decided(story) == before
    assert story.run.strays == 1
    assert story.happened == [Happening.LATE_ANSWER]
    assert (story.last.history[0].step, story.last.history[0].command_id) == (None, STRANGER)
    story.hears(Buried(STRANGER, "no receiver"))
    assert story.happened == [Happening.BURIED]
    assert story.run.strays == 2


def test_answers_to_strangers_are_only_counted_once_they_are_too_many() -> None:
    story = Story(BOOKING)
    for _ in range(3 * MAX_NOTES):
        story.late(STRANGER, DONE)
    assert [entry.command_id for entry in story.history].count(STRANGER) == MAX_NOTES
    assert story.run.strays == 3 * MAX_NOTES


def test_the_history_keeps_the_first_lines_about_a_command_and_counts_the_rest() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    pivot = story.awaited("charge")
    for _ in range(3 * MAX_NOTES):
        story.deadline("charge")
    lines = [entry for entry in story.history if entry.command_id == pivot]
    assert len(lines) == MAX_NOTES
    assert story.step("charge").notes == 1 + 2 * 3 * MAX_NOTES
    story.answers("charge")
    for _ in range(3 * MAX_NOTES):
        story.late(pivot, DONE)
    assert len([entry for entry in story.history if entry.command_id == pivot]) == MAX_NOTES


def test_a_step_that_is_stuck_is_said_to_be_so_once_until_a_person_retries() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    for _ in range(3):
        story.buried("charge").answers("charge", reply=outcome("too-old"))
    assert [entry.happening for entry in story.history].count(Happening.STUCK) == 1
    assert story.step("charge").reason == "too-old"
    story.hears(Retry("charge", "ann", "once more")).buried("charge")
    assert [entry.happening for entry in story.history].count(Happening.STUCK) == 2


def test_a_new_command_has_lines_of_its_own() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    for _ in range(MAX_NOTES):
        story.deadline("send ticket")
    story.answers("send ticket", reply=REFUSED).repeat("send ticket")
    assert story.happened == [Happening.SENT]


def test_what_participants_say_is_made_fit_to_be_stored() -> None:
    story = Story(BOOKING)
    reply = outcome("refused", code="a\0b", reason="c\ud800d" + "e" * 600)
    story.answers("reserve seat", reply=reply)
    assert story.step("reserve seat").reason == "refused: a�b: c�d" + "e" * 483
    assert all(len(entry.detail) <= 500 for entry in story.last.history)
