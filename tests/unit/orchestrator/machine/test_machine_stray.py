"""Effects that a run can neither undo nor account for: they are listed, however late they come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.machine.instance import Status, StepStatus, StrayEffect
from orchestrator.machine.signals import Cancel, Pause, Replied, Resume, Skip, Terminate
from orchestrator.machine.transition import Happening
from orchestrator.store.records import record_of, standing_of
from outbox.replies import Outcome, Reply
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import DONE, NOTHING, REFUSED, SEAT_7, Story
from tests.support.orchestrator.trips import BOOKING, CHARGE, DEAF_SEAT, SEAT, trip

WHO = ("ann", "looked into it")


def compensated() -> tuple[Story, str]:
    """The room was in doubt and undone, and so was the seat. The id is the room's."""
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.deadline("reserve room").answers("reserve room", reply=NOTHING).answers("reserve seat")
    assert story.status is Status.COMPENSATED
    return story, room


def stuck_at_pivot() -> tuple[Story, str]:
    story = Story(BOOKING).answers("reserve seat", "reserve room").buried("charge")
    return story, story.awaited("charge")


def passed_over() -> tuple[Story, str]:
    """The seat was reserved, and an operator passed it over, since the answer was not taken in."""
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    (seat,) = story.step("reserve seat").action_ids
    story.saga = trip(SEAT, CHARGE)
    return story.hears(Skip("reserve seat", *WHO, result={"number": "9"})), seat


def as_older_code_left_it(story: Story) -> Story:
    """The run is read from a row of code that remembered no success."""
    older = record_of(row_of(story.run, story.saga, "done_ids"), story.saga).instance
    story.last = replace(story.last, instance=older)
    return story


@pytest.mark.parametrize("source", [None, "hotels"])
def test_a_success_after_the_end_of_what_was_undone_is_a_stray_effect(source: str | None) -> None:
    story, room = compensated()
    story.hears(Replied(room, DONE, source))
    assert story.run.stray_effects == (StrayEffect("reserve room", room, story.now),)
    assert story.happened == [Happening.LATE_ANSWER, Happening.STRAY_EFFECT]
    entry = story.last.history[-1]
    assert (entry.step, entry.command_id) == ("reserve room", room)
    assert entry.detail == "its action took effect, and the step is UNDONE: nothing undoes that"
    assert (story.sent, story.status) == ([], Status.COMPENSATED)


def test_a_success_after_the_end_of_what_was_refused_is_a_stray_effect() -> None:
    story = Story(BOOKING)
    seat = story.awaited("reserve seat")
    story.answers("reserve seat", reply=REFUSED).late(seat, SEAT_7)
    assert [it.step for it in story.run.stray_effects] == ["reserve seat"]


def test_a_stray_effect_is_listed_once_however_often_and_however_noisily_it_is_told() -> None:
    story, room = compensated()
    for _ in range(50):
        story.late(room, REFUSED)
    for _ in range(3):
        story.late(room, DONE)
    assert [it.command_id for it in story.run.stray_effects] == [room]
    assert [it.happening for it in story.history].count(Happening.STRAY_EFFECT) == 1


def test_a_stray_effect_after_the_end_from_a_stranger_does_not_count() -> None:
    story, room = compensated()
    story.hears(Replied(room, DONE, "strangers"))
    assert story.run.stray_effects == ()
    assert story.happened == [Happening.REJECTED_ANSWER]


def test_what_is_in_effect_or_listed_as_not_undone_is_no_stray_effect() -> None:
    done = Story(BOOKING)
    seat = done.awaited("reserve seat")
    done.answers("reserve seat", "reserve room", "charge", "send ticket").late(seat, SEAT_7)
    assert (done.status, done.run.stray_effects) == (Status.COMPLETED, ())
    ended = Story(BOOKING).hears(Terminate(*WHO))
    (seat,) = ended.step("reserve seat").action_ids
    ended.late(seat, SEAT_7)
    assert (ended.run.not_undone, ended.run.stray_effects) == (("reserve seat",), ())


def test_an_undo_that_succeeds_late_is_no_stray_effect() -> None:
    story, _ = compensated()
    (undo,) = story.step("reserve room").undo_ids
    assert story.late(undo, DONE).run.stray_effects == ()


def test_what_was_passed_over_and_runs_after_all_is_a_stray_effect_also_before_the_end() -> None:
    """A call to the outside can end well after it was barred."""
    story, pivot = stuck_at_pivot()
    story.hears(Skip("charge", *WHO)).tells("charge", "pending").late(pivot, DONE)
    assert story.status is Status.RUNNING
    assert [it.step for it in story.run.stray_effects] == ["charge"]
    assert story.step("charge").status is StepStatus.SKIPPED
    assert story.answers("send ticket").status is Status.COMPLETED


def test_what_was_passed_over_without_the_answer_and_had_run_is_a_stray_effect() -> None:
    story, pivot = stuck_at_pivot()
    story.hears(Skip("charge", *WHO))
    void, told = story.void("charge"), story.told("charge", "ran", DONE)
    story.hears(Skip("charge", *WHO)).answers("send ticket")
    assert story.status is Status.COMPLETED
    story.late(void, told)
    assert [it.command_id for it in story.run.stray_effects] == [pivot]


@pytest.mark.parametrize("state", ["absent", "refused"])
def test_what_was_passed_over_without_the_answer_and_had_not_run_is_none(state: str) -> None:
    story, _ = stuck_at_pivot()
    story.hears(Skip("charge", *WHO))
    void, told = story.void("charge"), story.told("charge", state, REFUSED)
    story.hears(Skip("charge", *WHO)).late(void, told)
    assert story.run.stray_effects == ()


def test_what_was_left_in_place_and_listed_is_no_stray_effect() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)
    (room,) = story.step("reserve room").action_ids
    story.buried("reserve room").hears(Skip("reserve room", *WHO))
    story.tells("reserve room", "absent").late(room, DONE)
    assert (story.run.not_undone, story.run.stray_effects) == (("reserve room",), ())


def test_a_stray_effect_of_a_step_that_is_undone_after_all_is_listed_no_more() -> None:
    """Only a run that code without a memory of successes has stored can list one before that."""
    story, seat = passed_over()
    as_older_code_left_it(story).late(seat, SEAT_7)
    assert [it.step for it in story.run.stray_effects] == ["reserve seat"]
    story.answers("charge", reply=REFUSED)
    assert (story.sent, story.run.stray_effects) == (["undo reserve seat"], ())


def test_a_live_run_undoes_a_late_success_and_has_no_stray_effect() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(Cancel(*WHO)).answers("reserve room", reply=NOTHING).late(room, DONE)
    assert (story.sent, story.run.stray_effects) == (["undo reserve room"], ())


# Copies of what the run knows


def undone_after(source: str | None = None) -> tuple[Story, str]:
    """The room was reserved, and is undone; the seat is being undone. The id is the room's."""
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(Replied(room, DONE, source)).answers("charge", reply=REFUSED)
    return story.answers("reserve room"), room


@pytest.mark.parametrize("end", [Status.COMPENSATED, Status.TERMINATED])
@pytest.mark.parametrize(("first", "copy"), [(None, None), (None, "hotels"), ("hotels", None)])
def test_a_copy_after_the_end_of_a_success_that_the_run_knew_is_no_stray_effect(
    first: str | None, copy: str | None, end: Status
) -> None:
    story, room = undone_after(first)
    if end is Status.TERMINATED:
        story.hears(Terminate(*WHO))
    else:
        story.answers("reserve seat")
    assert story.status is end
    story.hears(Replied(room, DONE, copy))
    assert (story.run.stray_effects, story.happened) == ((), [Happening.LATE_ANSWER])


def test_a_copy_is_no_stray_effect_where_the_success_came_before_its_undo_could_be_sent() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(Pause(*WHO), Cancel(*WHO)).late(room, DONE)
    assert story.step("reserve room").status is StepStatus.IN_DOUBT
    story.hears(Resume(*WHO)).answers("reserve room", "reserve seat").late(room, DONE)
    assert (story.status, story.run.stray_effects) == (Status.COMPENSATED, ())


@pytest.mark.parametrize("undos", ["one on its way", "one answered"])
def test_a_copy_is_no_stray_effect_where_the_success_was_undone_once_more(undos: str) -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.deadline("reserve room")
    undo, success = Replied(story.awaited("reserve room"), NOTHING), Replied(room, DONE, "hotels")
    story.hears(*((success, undo) if undos == "one on its way" else (undo, success)))
    assert story.sent == ["undo reserve room"]
    story.answers("reserve room", "reserve seat").late(room, DONE)
    assert (story.status, story.run.stray_effects) == (Status.COMPENSATED, ())


def test_an_answer_to_a_delivery_during_the_undo_leaves_a_later_message_a_stray_effect() -> None:
    """The delivery may have been answered before the undo came, or after it; the message says that
    it was after it."""
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.deadline("reserve room").late(room, DONE).answers("reserve room", "reserve seat")
    assert story.status is Status.COMPENSATED
    story.hears(Replied(room, DONE, "hotels"))
    assert [it.command_id for it in story.run.stray_effects] == [room]


def test_each_attempt_has_a_success_of_its_own() -> None:
    story, room = undone_after()
    story.late(room, DONE).answers("reserve room", "reserve seat").late(room, DONE)
    seat = story.step("reserve seat")
    assert story.step("reserve room").done_ids == (room,)
    assert (seat.done_ids, story.run.stray_effects) == (seat.action_ids, ())


def test_a_copy_of_an_answer_that_was_passed_over_is_no_stray_effect() -> None:
    story, seat = passed_over()
    assert story.late(seat, SEAT_7).run.stray_effects == ()


def test_a_run_knows_after_it_was_stored_what_it_knew_before() -> None:
    story, room = undone_after()
    story.answers("reserve seat")
    stored = record_of(row_of(story.run, BOOKING), BOOKING).instance
    story.last = replace(story.last, instance=stored)
    assert story.late(room, DONE).run.stray_effects == ()


def test_a_run_of_older_code_lists_what_may_be_a_copy_once() -> None:
    story, room = undone_after()
    as_older_code_left_it(story.answers("reserve seat")).late(room, DONE).late(room, DONE)
    assert [it.command_id for it in story.run.stray_effects] == [room]


def test_stray_effects_are_stored_with_the_run_and_a_row_of_older_code_has_none() -> None:
    story, room = compensated()
    story.late(room, Reply(Outcome.DONE))
    row = row_of(story.run, BOOKING)
    assert record_of(row, BOOKING).instance == story.run
    assert standing_of(row.document).stray_effects == story.run.stray_effects
    older = record_of(row_of(story.run, BOOKING, "stray_effects"), BOOKING).instance
    assert older == replace(story.run, stray_effects=())
