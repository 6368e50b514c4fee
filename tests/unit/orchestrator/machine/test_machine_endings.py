"""A person turns a run back, or ends it as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import IllegalSignal
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.signals import (
    Cancel,
    Pause,
    Resume,
    Skip,
    Terminate,
    TimerFired,
    TimerKind,
)
from orchestrator.machine.transition import Happening
from tests.support.orchestrator.story import REFUSED, Story
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    DEAF_SEAT,
    SEAT,
    SIDE_BY_SIDE,
    TICKET,
    UNMAKEABLE_ROOM,
    WITHOUT_PIVOT,
    Charge,
    Trip,
    trip,
)

CANCEL = Cancel("ann", "changed her mind")
TERMINATE = Terminate("ann", "start over")


def unmakeable(_: Trip) -> Charge:
    raise RuntimeError


# Cancel


def test_a_cancelled_run_undoes_what_is_done_and_what_may_have_been() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(CANCEL)
    assert story.status is Status.COMPENSATING
    assert story.sent == ["undo reserve room"]
    assert room in story.last.withdrawn
    assert story.happened == [Happening.OPERATOR, Happening.TURNED_BACK, Happening.SENT]
    assert story.last.history[1].detail == "cancelled by ann: changed her mind"
    assert story.answers("reserve room").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED


@pytest.mark.parametrize(
    ("story", "step"),
    [
        (Story(BOOKING).answers("reserve seat", "reserve room"), "charge"),
        (Story(BOOKING).answers("reserve seat", "reserve room", "charge"), "charge"),
        (Story(WITHOUT_PIVOT).answers("reserve seat", "reserve room"), "send ticket"),
    ],
    ids=["pivot sent", "pivot done", "first retriable sent"],
)
def test_a_run_cannot_be_cancelled_once_the_point_of_no_return_was_sent(
    story: Story, step: str
) -> None:
    with pytest.raises(IllegalSignal) as caught:
        story.hears(CANCEL)
    assert str(caught.value) == (
        f"cancel is not possible while the run is RUNNING, since {step!r} may have happened and "
        "cannot be undone; what is possible now: pause, terminate"
    )


def test_a_run_can_be_cancelled_while_its_pivot_waits_for_the_end_of_a_pause() -> None:
    story = Story(BOOKING).answers("reserve seat").hears(Pause("ann", "wait"))
    story.answers("reserve room").hears(CANCEL)
    assert (story.sent, story.status) == ([], Status.COMPENSATING)
    assert story.hears(Resume("ann", "go on")).sent == ["undo reserve room"]


def test_a_cancel_during_a_pause_withdraws_at_once_what_is_still_on_its_way() -> None:
    story = Story(BOOKING).hears(Pause("ann", "wait"))
    seat = story.awaited("reserve seat")
    assert story.hears(CANCEL).last.withdrawn == (seat,)


def test_a_run_cannot_be_cancelled_once_a_person_took_its_pivot_for_done() -> None:
    story = Story(trip(SEAT, replace(CHARGE, action=unmakeable), TICKET)).answers("reserve seat")
    story.hears(Skip("charge", "ann", "paid in cash"))
    with pytest.raises(
        IllegalSignal, match="since 'charge' may have happened and cannot be undone"
    ):
        story.hears(CANCEL)


def test_a_run_that_could_not_make_its_pivot_can_still_be_cancelled() -> None:
    story = Story(trip(SEAT, replace(CHARGE, action=unmakeable))).answers("reserve seat")
    assert story.step("charge").status is StepStatus.STUCK
    assert story.hears(CANCEL).sent == ["undo reserve seat"]
    assert story.status is Status.COMPENSATING
    assert story.steps() == [StepStatus.UNDOING, StepStatus.PENDING]


def test_a_run_that_is_stuck_with_an_answer_it_cannot_take_in_undoes_that_step_too() -> None:
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    assert story.hears(CANCEL).sent == ["undo reserve seat"]
    assert story.step("reserve seat").kept is None


def test_compensation_is_shielded_from_a_second_cancel() -> None:
    story = Story(BOOKING).hears(CANCEL)
    before = story.run
    with pytest.raises(IllegalSignal, match="cancel is not possible while the run is COMPENSATING"):
        story.hears(CANCEL)
    assert story.run is before
    assert story.answers("reserve seat").status is Status.COMPENSATED


def test_a_cancel_after_the_end_loses_the_race() -> None:
    story = Story(trip(SEAT)).answers("reserve seat")
    with pytest.raises(IllegalSignal, match="cancel is not possible while the run is COMPLETED;"):
        story.hears(CANCEL)


def test_a_run_that_has_sent_nothing_is_compensated_at_once() -> None:
    story = Story(trip(UNMAKEABLE_ROOM)).hears(CANCEL)
    assert story.status is Status.COMPENSATED
    assert story.steps() == [StepStatus.PENDING]


# Terminate


def test_a_terminated_run_undoes_nothing_and_lists_what_may_be_in_effect() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(TERMINATE)
    assert story.status is Status.TERMINATED
    assert story.run.not_undone == ("reserve seat", "reserve room")
    assert story.sent == []
    assert story.last.withdrawn == (room,)
    assert story.steps()[:2] == [StepStatus.DONE, StepStatus.IN_DOUBT]
    assert story.happened == [Happening.OPERATOR, Happening.ENDED]


def test_a_run_that_is_terminated_while_it_compensates_lists_what_is_not_undone() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)
    story.answers("reserve room").hears(TERMINATE)
    assert story.run.not_undone == ("reserve seat",)
    assert story.steps()[0] is StepStatus.IN_DOUBT


def test_a_step_that_was_never_sent_or_was_refused_is_not_listed() -> None:
    story = Story(trip(SEAT, UNMAKEABLE_ROOM)).answers("reserve seat")
    assert story.hears(TERMINATE).run.not_undone == ("reserve seat",)
    parallel = Story(SIDE_BY_SIDE).answers("reserve room", reply=REFUSED).hears(TERMINATE)
    assert parallel.run.not_undone == ("reserve seat",)


def test_what_was_skipped_is_listed_whether_it_was_ever_sent_or_not() -> None:
    by_hand = Story(trip(SEAT, UNMAKEABLE_ROOM, CHARGE)).answers("reserve seat")
    by_hand.hears(Skip("reserve room", "ann", "by hand"), TERMINATE)
    assert by_hand.run.not_undone == ("reserve seat", "reserve room", "charge")
    ran = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    ran.saga = trip(SEAT, CHARGE)
    ran.hears(Skip("reserve seat", "ann", "it ran", result={"number": "9"}), TERMINATE)
    assert ran.run.not_undone == ("reserve seat", "charge")


def test_a_paused_run_can_be_terminated_and_is_not_paused_any_more() -> None:
    story = Story(BOOKING).hears(Pause("ann", "wait"), TERMINATE)
    assert story.status is Status.TERMINATED
    assert not story.run.paused


def test_a_terminated_run_leaves_no_zombies() -> None:
    story = Story(BOOKING).answers("reserve seat")
    room = story.awaited("reserve room")
    story.hears(TERMINATE)
    ended = story.run
    for kind in TimerKind:
        story.hears(TimerFired(kind, room))
        assert story.run == ended
    story.late(room, REFUSED)
    assert story.sent == []
    assert replace(story.run, steps=ended.steps) == ended
    assert story.happened == [Happening.LATE_ANSWER]
