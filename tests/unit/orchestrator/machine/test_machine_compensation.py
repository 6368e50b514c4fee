"""The way back: in which order, under which ids, and what happens when an undo fails."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.machine.commands import compensation_of, dispatch_of
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import Retry
from orchestrator.machine.transition import Happening
from outbox.replies import Reply
from tests.support.orchestrator.story import (
    LOCKED,
    NOTHING,
    ONGOING,
    REFUSED,
    RUN_ID,
    Story,
    outcome,
)
from tests.support.orchestrator.trips import BOOKING, CHARGE, ONE_WAY_ROOM, ROOM, SEAT, trip


def turned_back() -> Story:
    """Refused at the pivot: the room is being released, the seat waits for that."""
    return Story(BOOKING).answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)


def test_steps_are_undone_one_after_the_other_from_the_last_to_the_first() -> None:
    story = turned_back()
    assert story.sent == ["undo reserve room"]
    assert story.step("reserve seat").status is StepStatus.DONE
    assert story.answers("reserve room").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").sent == []
    assert story.status is Status.COMPENSATED
    assert story.happened == [Happening.ANSWERED, Happening.ENDED]


def test_an_undo_names_the_action_that_it_undoes_and_goes_to_its_participant() -> None:
    story = Story(BOOKING).answers("reserve seat")
    action = story.awaited("reserve room")
    story.answers("reserve room").answers("charge", reply=REFUSED)
    (undo,) = story.last.commands
    assert undo.undoes == (action,)
    assert undo.type == "hotels.release-room.v1"
    assert undo.participant == "hotels"
    assert undo.key == f"{RUN_ID}/reserve room"
    assert undo.id not in {action}


def test_an_undo_names_every_action_that_was_ever_sent_for_the_step() -> None:
    run = Story(BOOKING).run
    step = replace(run.steps["reserve seat"], action_ids=("first", "second"))
    run = replace(run, steps={**run.steps, "reserve seat": step})
    undo = compensation_of(BOOKING, run, SEAT)
    assert undo.undoes == dispatch_of(BOOKING, SEAT, undo).undoes == ("first", "second")


def test_staging_an_undo_withdraws_the_action() -> None:
    story = Story(BOOKING).answers("reserve seat")
    action = story.awaited("reserve room")
    assert story.deadline("reserve room").last.withdrawn == (action,)
    story = turned_back()
    assert story.last.withdrawn == story.step("reserve room").action_ids


@pytest.mark.parametrize("reply", [NOTHING, outcome("done")])
def test_a_step_is_undone_whether_there_was_something_to_undo_or_not(reply: Reply) -> None:
    story = turned_back().answers("reserve room", reply=reply)
    assert story.step("reserve room").status is StepStatus.UNDONE
    assert story.sent == ["undo reserve seat"]


# Failing compensations


def test_a_refused_undo_is_tried_anew_under_a_new_id_after_a_pause() -> None:
    story = turned_back()
    (first,) = story.last.commands
    assert story.answers("reserve room", reply=REFUSED).pause() == 1
    assert story.sent == []
    story.repeat("reserve room")
    (second,) = story.last.commands
    assert second.id != first.id
    assert second.undoes == first.undoes
    assert story.step("reserve room").undo_ids == (first.id, second.id)
    assert story.answers("reserve room").sent == ["undo reserve seat"]


def test_an_undo_that_is_refused_too_often_makes_the_run_stuck_with_the_reason() -> None:
    story = turned_back()
    for pause in (1, 2):
        assert story.answers("reserve room", reply=REFUSED).pause() == pause
        story.repeat("reserve room")
    story.answers("reserve room", reply=REFUSED)
    assert story.status is Status.STUCK
    assert story.step("reserve room").reason == (
        "it was still answered refused: full: nothing is left"
    )
    assert (story.sent, story.last.timers) == ([], ())


def test_what_depends_on_a_stuck_undo_waits_for_it() -> None:
    story = turned_back().buried("reserve room")
    assert story.step("reserve seat").status is StepStatus.DONE
    assert story.status is Status.STUCK


@pytest.mark.parametrize("reply", [LOCKED, ONGOING])
def test_a_locked_or_ongoing_undo_is_repeated_under_the_same_id(reply: Reply) -> None:
    story = turned_back()
    sent = story.last.commands
    story.answers("reserve room", reply=reply)
    assert story.repeat("reserve room").last.commands == sent


def test_an_undo_that_is_locked_too_often_makes_the_run_stuck() -> None:
    story = turned_back()
    for _ in range(2):
        story.answers("reserve room", reply=LOCKED).repeat("reserve room")
    assert story.answers("reserve room", reply=LOCKED).status is Status.STUCK


def test_an_undo_that_goes_on_is_asked_for_as_long_as_it_does() -> None:
    story = turned_back()
    for _ in range(20):
        story.answers("reserve room", reply=ONGOING).repeat("reserve room")
        assert story.status is Status.COMPENSATING


@pytest.mark.parametrize("answer", ["unknown", "too-old", "expired"])
def test_an_undo_whose_outcome_is_unknown_makes_the_run_stuck(answer: str) -> None:
    story = turned_back()
    first = story.awaited("reserve room")
    story.answers("reserve room", reply=outcome(answer))
    assert story.status is Status.STUCK
    assert story.step("reserve room").reason == f"its compensation was answered {answer}"
    story.hears(Retry("reserve room", "ann", "looked"))
    assert story.sent == ["undo reserve room"]
    assert story.awaited("reserve room") != first


def test_a_buried_undo_makes_the_run_stuck_and_a_retry_sends_the_same_one() -> None:
    story = turned_back()
    sent = story.last.commands
    story.buried("reserve room")
    assert story.status is Status.STUCK
    assert story.step("reserve room").reason == (
        "its command became a dead letter of the orchestrator (sagabox dead-letters): no receiver"
    )
    assert story.hears(Retry("reserve room", "ann", "it is back")).last.commands == sent


def test_an_undo_that_cannot_be_made_makes_the_run_stuck_and_a_retry_makes_it() -> None:
    story = Story(trip(SEAT, ONE_WAY_ROOM, CHARGE))
    story.answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)
    assert story.status is Status.STUCK
    assert story.sent == []
    assert story.step("reserve room").reason == (
        "its command could not be made: RuntimeError: no room"
    )
    assert story.step("reserve room").undo_ids == ()
    story.saga = trip(SEAT, ROOM, CHARGE)
    assert story.hears(Retry("reserve room", "ann", "mended")).sent == ["undo reserve room"]


def test_a_second_undo_that_cannot_be_made_makes_the_run_stuck_and_a_retry_makes_it() -> None:
    story = turned_back().answers("reserve room", reply=REFUSED)
    story.saga = trip(SEAT, ONE_WAY_ROOM, CHARGE)
    assert story.repeat("reserve room").status is Status.STUCK
    story.saga = BOOKING
    assert story.hears(Retry("reserve room", "ann", "mended")).sent == ["undo reserve room"]
    assert len(story.step("reserve room").undo_ids) == 2


def test_an_undo_is_made_from_what_the_run_knows_by_then() -> None:
    story = Story(BOOKING).deadline("reserve seat")
    assert json.loads(story.last.commands[0].data) == {"trip": "t1", "seat": None}


def test_after_a_turn_no_answer_sends_anything_forward() -> None:
    story = Story(BOOKING).answers("reserve seat")
    action = story.awaited("reserve room")
    story.deadline("reserve room")
    from_doubt = story.late(action, outcome("done"))
    assert from_doubt.sent == []
    assert story.answers("reserve room").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED
