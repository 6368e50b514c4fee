"""Steps side by side: what waits for what, forward and backward."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import Resolve, Retry, Skip
from tests.support.orchestrator.story import NOTHING, REFUSED, Story
from tests.support.orchestrator.trips import (
    CHARGE,
    DEAF_SEAT,
    ROOM,
    SEAT,
    SIDE_BY_SIDE,
    TICKET,
    UNMAKEABLE_ROOM,
    trip,
)

WHO = ("ann", "looked into it")
CAR = replace(ROOM, name="rent car")
DIAMOND = trip(
    SEAT,
    replace(ROOM, after=("reserve seat",)),
    replace(CAR, after=("reserve seat",)),
    CHARGE,
)
"""The seat first, then room and car side by side."""
BILL = replace(TICKET, name="send bill", after=())


def test_steps_that_do_not_depend_on_each_other_are_sent_together() -> None:
    assert Story(SIDE_BY_SIDE).sent == ["do reserve seat", "do reserve room"]
    assert Story(DIAMOND).sent == ["do reserve seat"]
    assert Story(DIAMOND).answers("reserve seat").sent == ["do reserve room", "do rent car"]


def test_a_step_waits_for_all_that_it_depends_on() -> None:
    story = Story(SIDE_BY_SIDE).answers("reserve room")
    assert story.sent == []
    assert story.answers("reserve seat").sent == ["do charge"]


def test_steps_of_which_both_are_done_are_undone_together() -> None:
    story = Story(SIDE_BY_SIDE).answers("reserve seat", "reserve room")
    story.answers("charge", reply=REFUSED)
    assert sorted(story.sent) == ["undo reserve room", "undo reserve seat"]
    story.answers("reserve seat")
    assert story.status is Status.COMPENSATING
    assert story.answers("reserve room").status is Status.COMPENSATED


def test_a_refusal_beside_a_step_that_is_on_its_way_undoes_that_one_too() -> None:
    story = Story(SIDE_BY_SIDE)
    seat = story.awaited("reserve seat")
    story.answers("reserve room", reply=REFUSED)
    assert story.sent == ["undo reserve seat"]
    assert story.last.commands[0].undoes == (seat,)
    assert story.steps()[:2] == [StepStatus.UNDOING, StepStatus.REFUSED]
    assert story.answers("reserve seat", reply=NOTHING).status is Status.COMPENSATED


def test_a_deadline_beside_a_step_that_is_done_undoes_both() -> None:
    story = Story(SIDE_BY_SIDE).answers("reserve seat").deadline("reserve room")
    assert sorted(story.sent) == ["undo reserve room", "undo reserve seat"]


def test_a_step_is_undone_only_after_all_that_came_after_it() -> None:
    story = Story(DIAMOND).answers("reserve seat", "reserve room", "rent car")
    story.answers("charge", reply=REFUSED)
    assert sorted(story.sent) == ["undo rent car", "undo reserve room"]
    assert story.answers("rent car").sent == []
    assert story.answers("reserve room").sent == ["undo reserve seat"]


def test_a_stuck_undo_does_not_stop_those_that_do_not_depend_on_it() -> None:
    story = Story(DIAMOND).answers("reserve seat", "reserve room", "rent car")
    story.answers("charge", reply=REFUSED).buried("reserve room")
    assert story.status is Status.STUCK
    story.answers("rent car")
    assert story.step("rent car").status is StepStatus.UNDONE
    assert story.step("reserve seat").status is StepStatus.DONE
    story.hears(Retry("reserve room", *WHO)).answers("reserve room")
    assert story.sent == ["undo reserve seat"]


def test_a_stuck_undo_lets_the_failing_of_another_one_be_repeated() -> None:
    story = Story(DIAMOND).answers("reserve seat", "reserve room", "rent car")
    story.answers("charge", reply=REFUSED).buried("reserve room")
    assert story.answers("rent car", reply=REFUSED).repeat("rent car").sent == ["undo rent car"]


def test_a_stuck_step_does_not_stop_the_one_beside_it() -> None:
    story = Story(trip(SEAT, CHARGE, TICKET, BILL)).answers("reserve seat", "charge")
    assert story.sent == ["do send ticket", "do send bill"]
    story.buried("send ticket").answers("send bill")
    assert story.step("send bill").status is StepStatus.DONE
    assert story.status is Status.STUCK
    skipped = story.hears(Skip("send ticket", *WHO)).tells("send ticket", "absent")
    assert skipped.status is Status.COMPLETED


def test_each_of_two_stuck_steps_needs_a_person() -> None:
    story = Story(trip(SEAT, CHARGE, TICKET, BILL)).answers("reserve seat", "charge")
    story.buried("send ticket").buried("send bill").hears(Retry("send ticket", *WHO))
    assert story.sent == ["do send ticket"]
    assert story.status is Status.STUCK


def test_a_refusal_beside_a_stuck_step_turns_back_both_ways_to_be_stuck() -> None:
    room = replace(UNMAKEABLE_ROOM, after=())
    story = Story(trip(DEAF_SEAT, room, replace(CAR, after=()), CHARGE)).answers("reserve seat")
    assert story.steps()[:3] == [StepStatus.STUCK, StepStatus.STUCK, StepStatus.SENT]
    story.answers("rent car", reply=REFUSED)
    assert story.steps() == [
        StepStatus.UNDOING,
        StepStatus.PENDING,
        StepStatus.REFUSED,
        StepStatus.PENDING,
    ]
    assert story.status is Status.COMPENSATING


def test_a_step_that_was_done_by_hand_keeps_what_came_before_and_after_in_order() -> None:
    saga = trip(SEAT, UNMAKEABLE_ROOM, CAR, CHARGE)
    story = Story(saga).answers("reserve seat").hears(Skip("reserve room", *WHO))
    story.answers("rent car").answers("charge", reply=REFUSED)
    assert story.sent == ["undo rent car"]
    assert story.answers("rent car").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.RESOLVED


def test_a_resolved_run_gives_up_what_is_still_being_undone_and_lists_it() -> None:
    story = Story(DIAMOND).answers("reserve seat", "reserve room", "rent car")
    story.answers("charge", reply=REFUSED).buried("reserve room")
    car = story.awaited("rent car")
    story.hears(Resolve(*WHO))
    assert story.run.not_undone == ("reserve seat", "reserve room", "rent car")
    assert car in story.last.withdrawn
