"""A participant says no, not now, or not yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.definition.steps import WhenLocked
from orchestrator.machine.instance import Status, StepStatus, Wait
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Happening
from outbox.replies import Reply
from outbox.retry import RetryPolicy
from tests.support.orchestrator.story import LOCKED, ONGOING, REFUSED, Story, outcome
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    ROOM,
    SEAT,
    TICKET,
    WITHOUT_PIVOT,
    trip,
)

NO = ["refused", "already-undone", "expired"]


@pytest.mark.parametrize("no", NO)
def test_a_refused_first_step_ends_the_run_compensated_with_nothing_to_undo(no: str) -> None:
    story = Story(BOOKING).answers("reserve seat", reply=outcome(no))
    assert story.status is Status.COMPENSATED
    assert story.steps() == [StepStatus.REFUSED, *[StepStatus.PENDING] * 3]
    assert story.sent == []
    assert story.happened == [Happening.ANSWERED, Happening.TURNED_BACK, Happening.ENDED]


@pytest.mark.parametrize("no", NO)
def test_a_refused_compensatable_step_undoes_what_is_done_but_not_itself(no: str) -> None:
    story = Story(BOOKING).answers("reserve seat").answers("reserve room", reply=outcome(no))
    assert story.sent == ["undo reserve seat"]
    assert story.status is Status.COMPENSATING
    assert story.steps()[:2] == [StepStatus.UNDOING, StepStatus.REFUSED]


@pytest.mark.parametrize("no", NO)
def test_a_refused_pivot_undoes_every_compensatable_step(no: str) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    assert story.answers("charge", reply=outcome(no)).sent == ["undo reserve room"]
    assert story.answers("reserve room").sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED
    assert story.steps() == [
        StepStatus.UNDONE,
        StepStatus.UNDONE,
        StepStatus.REFUSED,
        StepStatus.PENDING,
    ]


def test_a_refusal_keeps_its_code_and_reason() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=REFUSED)
    assert story.step("reserve seat").reason == "refused: full: nothing is left"
    assert story.last.history[1].detail == (
        "step 'reserve seat' was not done: refused: full: nothing is left"
    )


# Retriable steps


@pytest.mark.parametrize("no", NO)
def test_a_refused_retriable_step_is_tried_anew_under_a_new_id_after_a_pause(no: str) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    first = story.awaited("send ticket")
    story.answers("send ticket", reply=outcome(no))
    assert (story.sent, story.pause(), story.status) == ([], 1, Status.RUNNING)
    assert story.repeat("send ticket").sent == ["do send ticket"]
    assert story.awaited("send ticket") != first
    assert story.step("send ticket").action_ids == (first, story.awaited("send ticket"))
    assert story.answers("send ticket").status is Status.COMPLETED


def test_a_retriable_step_that_is_refused_too_often_makes_the_run_stuck() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    for pause in (1, 2):
        assert story.answers("send ticket", reply=REFUSED).pause() == pause
        story.repeat("send ticket")
    story.answers("send ticket", reply=REFUSED)
    assert story.status is Status.STUCK
    assert story.last.timers == ()
    reason = "it was still answered refused: full: nothing is left"
    assert story.step("send ticket").reason == reason


def test_a_refused_first_retriable_step_never_turns_a_run_without_a_pivot_back() -> None:
    story = Story(WITHOUT_PIVOT).answers("reserve seat", "reserve room")
    story.answers("send ticket", reply=REFUSED).repeat("send ticket")
    assert story.sent == ["do send ticket"]
    assert story.status is Status.RUNNING


# Locked and ongoing


@pytest.mark.parametrize("reply", [LOCKED, ONGOING])
@pytest.mark.parametrize("step", ["reserve seat", "charge", "send ticket"])
def test_a_locked_or_ongoing_step_is_repeated_under_the_same_id(step: str, reply: Reply) -> None:
    story = Story(BOOKING)
    for before in ("reserve seat", "reserve room", "charge"):
        if before == step:
            break
        story.answers(before)
    (first,) = story.last.commands
    story.answers(step, reply=reply)
    assert (story.sent, story.status) == ([], Status.RUNNING)
    assert story.step(step).status is StepStatus.SENT
    assert story.repeat(step).last.commands == (first,)
    assert story.happened == [Happening.REPEATED]
    assert story.last.timers == ()


def test_a_locked_step_is_asked_again_after_growing_pauses() -> None:
    story = Story(BOOKING)
    pauses = []
    for _ in range(4):
        pauses.append(story.answers("reserve seat", reply=LOCKED).pause())
        story.repeat("reserve seat")
    assert pauses == [1, 2, 10, 10]


def test_a_pause_is_shortened_by_the_jitter_of_the_policy_and_always_by_the_same() -> None:
    policy = RetryPolicy(first=8, factor=1, ceiling=8, jitter=0.5, attempts=9)
    pauses = []
    for _ in range(2):
        story = Story(trip(replace(SEAT, retry=policy)))
        pauses.append(story.answers("reserve seat", reply=LOCKED).pause())
        story.repeat("reserve seat")
        pauses.append(story.answers("reserve seat", reply=LOCKED).pause())
    assert pauses[:2] == pauses[2:]
    assert len(set(pauses)) == 2
    assert all(4 < pause <= 8 for pause in pauses)


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(30, 30), (0.1, 1), (-5, 1), (None, 1), (1e300, 86_400), (float("inf"), 86_400)],
)
def test_an_ongoing_step_is_asked_again_when_the_participant_says_so(
    asked: float | None, pause: float
) -> None:
    story = Story(BOOKING).answers("reserve seat", reply=outcome("ongoing", retry_after=asked))
    assert story.pause() == pause


def test_a_nonsense_pause_is_ignored() -> None:
    reply = outcome("ongoing", retry_after=float("nan"))
    assert Story(BOOKING).answers("reserve seat", reply=reply).pause() == 1


def test_a_step_that_is_locked_at_its_deadline_turns_the_run_back() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED).deadline("reserve seat")
    assert story.sent == ["undo reserve seat"]


def test_a_repeated_command_keeps_its_first_deadline() -> None:
    story = Story(BOOKING)
    (first,) = story.last.commands
    story.answers("reserve seat", reply=LOCKED).repeat("reserve seat")
    assert story.last.commands[0].expires == first.expires
    assert [timer.kind for timer in story.last.timers] == []


@pytest.mark.parametrize("step", ["charge", "send ticket"])
def test_a_step_beyond_return_that_is_locked_too_often_makes_the_run_stuck(step: str) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    if step == "send ticket":
        story.answers("charge")
    for _ in range(2):
        story.answers(step, reply=LOCKED).repeat(step)
    story.answers(step, reply=LOCKED)
    assert story.status is Status.STUCK
    assert story.step(step).reason == "it was still answered locked: by another trip"


def test_a_step_that_is_ongoing_is_asked_for_as_long_as_it_goes_on() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    for _ in range(20):
        story.answers("charge", reply=ONGOING)
        assert (story.status, story.pause()) == (Status.RUNNING, 30)
        story.repeat("charge")
    assert story.answers("charge").sent == ["do send ticket"]


def test_a_locked_step_that_is_to_be_given_up_is_barred_and_turns_the_run_back() -> None:
    story = Story(trip(SEAT, replace(ROOM, when_locked=WhenLocked.REJECT), CHARGE))
    story.answers("reserve seat")
    first = story.awaited("reserve room")
    story.answers("reserve room", reply=LOCKED)
    assert story.sent == ["undo reserve room"]
    assert story.last.commands[0].undoes == (first,)
    assert story.status is Status.COMPENSATING


def test_a_definite_answer_counts_while_a_locked_step_waits_to_be_repeated() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED).answers("reserve seat")
    assert story.sent == ["do reserve room"]
    assert story.step("reserve seat").tries == 0


@pytest.mark.parametrize("reply", [LOCKED, ONGOING, outcome("failed")])
def test_a_second_not_yet_while_a_step_waits_is_a_duplicate(reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED)
    story.answers("reserve seat", reply=reply)
    assert story.happened == [Happening.LATE_ANSWER]
    assert story.last.timers == ()
    assert story.step("reserve seat").tries == 1


def test_a_timer_to_repeat_that_fires_twice_sends_one_command() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED)
    assert story.repeat("reserve seat").sent == ["do reserve seat"]
    assert story.repeat("reserve seat").sent == []


@pytest.mark.parametrize("name", ["too-busy", "not-attempted", "failed", "rejected"])
@pytest.mark.parametrize("undo", [False, True])
def test_what_the_relay_goes_on_with_decides_nothing(name: str, undo: bool) -> None:
    story = Story(trip(SEAT, ROOM, CHARGE, TICKET))
    if undo:
        story.answers("reserve seat").answers("reserve room", reply=REFUSED)
    before = story.steps()
    awaited = story.awaited("reserve seat")
    story.answers("reserve seat", reply=outcome(name, reason="out of breath"))
    assert story.steps() == before
    assert story.awaited("reserve seat") == awaited
    assert (story.sent, story.last.timers) == ([], ())
    assert story.step("reserve seat").reason == f"{name}: out of breath"
    assert story.happened == [Happening.ANSWERED]
    story.answers("reserve seat")
    assert story.step("reserve seat").status is (StepStatus.UNDONE if undo else StepStatus.DONE)


def test_a_waiting_step_shows_that_it_waits() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED)
    awaited = story.step("reserve seat").awaited
    assert awaited is not None
    assert awaited.wait is Wait.REPEAT
    assert story.timer(TimerKind.REPEAT).command_id == awaited.id
