"""Answers that come later: the participant has begun, and says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.machine.instance import Awaited, Cause, Pended, Status, StepStatus, Wait
from orchestrator.machine.later_answers import PENDING_SHORTEST_PAUSE
from orchestrator.machine.signals import ACCEPTED, Pause, Replied, Resume, Retry, TimerKind
from orchestrator.machine.transition import Happening
from orchestrator.store import signal_rows
from orchestrator.store.records import record_of
from outbox.replies import PENDING, Outcome, Progress, Reply
from outbox.wire.reply_json import progress_json
from tests.support.orchestrator.stored_runs import row_of
from tests.support.orchestrator.story import BEGIN, LOCKED, REFUSED, SEAT_7, Story, outcome
from tests.support.orchestrator.trips import BOOKING

PROGRESS = Progress(since=BEGIN, expected_at=BEGIN + timedelta(days=2))
CALL = Progress(BEGIN, None, 2, "payments-1", BEGIN + timedelta(seconds=40))
NO = outcome("refused", code="declined", reason="the bank said no", after_pending=True)


def pending(
    note: str = "the guard", progress: Progress = PROGRESS, retry_after: float | None = None
) -> Reply:
    value = progress_json(progress)
    return Reply(Outcome.ONGOING, value, PENDING, note, retry_after)


def awaited(story: Story, step: str = "reserve seat") -> Awaited:
    command = story.step(step).awaited
    assert command is not None
    return command


def at_the_pivot() -> Story:
    return Story(BOOKING).answers("reserve seat", "reserve room")


def at_the_ticket() -> Story:
    return at_the_pivot().answers("charge")


def at_an_undo() -> Story:
    return Story(BOOKING).answers("reserve seat").answers("reserve room", reply=REFUSED)


PLACES = {
    "an action": (lambda: Story(BOOKING), "reserve seat"),
    "the pivot": (at_the_pivot, "charge"),
    "a retriable step": (at_the_ticket, "send ticket"),
    "an undo": (at_an_undo, "reserve seat"),
}


@pytest.fixture(params=PLACES.values(), ids=list(PLACES))
def place(request: pytest.FixtureRequest) -> tuple[Story, str]:
    make, step = request.param
    return make(), step


# Asking again


def test_a_pending_command_is_asked_again_after_a_minute_that_grows_to_an_hour(
    place: tuple[Story, str],
) -> None:
    story, step = place
    status, first = story.step(step).status, awaited(story, step)
    pauses = []
    for _ in range(9):
        pauses.append(story.answers(step, reply=pending()).pause())
        assert story.step(step).status is status
        story.repeat(step)
        (again,) = story.last.commands
        assert (again.id, again.data, again.undoes) == (first.id, first.data, first.undoes)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert story.step(step).tries == 0, "no answer that comes later uses up a try"
    assert story.step(step).reason is None


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(7.25, 7.25), (0.0, PENDING_SHORTEST_PAUSE), (1e9, 86_400)]
)
def test_a_call_is_asked_about_at_the_time_that_its_answer_names(
    retry_after: float, pause: float
) -> None:
    story = Story(BOOKING)
    for _ in range(3):
        story.answers("reserve seat", reply=pending(progress=CALL, retry_after=retry_after))
        assert story.pause() == pause
        story.repeat("reserve seat")


def test_no_answer_that_comes_later_moves_the_deadline(place: tuple[Story, str]) -> None:
    story, step = place
    deadline = awaited(story, step).deadline
    story.answers(step, reply=pending()).repeat(step).answers(step, reply=pending())
    assert awaited(story, step).deadline == deadline
    assert [it.kind for it in story.last.timers] == [TimerKind.REPEAT]


def test_the_deadline_of_a_pending_action_turns_the_run_back() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending()).deadline("reserve seat")
    assert story.sent == ["undo reserve seat"]
    assert awaited(story).pending is None, "nothing was said about the undo"


def test_a_pending_pivot_is_in_doubt_after_its_deadline_and_is_asked_at_its_time() -> None:
    story = at_the_pivot().answers("charge", reply=pending()).deadline("charge")
    assert (story.sent, story.step("charge").status) == ([], StepStatus.IN_DOUBT)
    assert story.repeat("charge").sent == ["do charge"]
    assert story.answers("charge").sent == ["do send ticket"]


def test_a_pending_command_that_comes_due_in_a_pause_is_sent_after_it() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending()).hears(Pause("ann", "wait"))
    assert story.repeat("reserve seat").sent == []
    assert story.hears(Resume("ann", "go on")).sent == ["do reserve seat"]


# Its answer


def test_the_answer_that_was_pending_counts(place: tuple[Story, str]) -> None:
    story, step = place
    story.answers(step, reply=pending()).repeat(step)
    story.answers(step)
    assert story.step(step).status in {StepStatus.DONE, StepStatus.UNDONE}
    assert Happening.ANSWERED in story.happened


def test_an_undo_that_was_pending_and_is_refused_is_tried_anew() -> None:
    story = at_an_undo().answers("reserve seat", reply=pending())
    first = story.awaited("reserve seat")
    story.answers("reserve seat", reply=NO).repeat("reserve seat")
    assert story.sent == ["undo reserve seat"]
    assert story.awaited("reserve seat") != first


def test_an_action_refused_after_its_writes_were_kept_is_undone_as_after_a_doubt() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending())
    action = story.awaited("reserve seat")
    story.answers("reserve seat", reply=NO)
    assert story.sent == ["undo reserve seat"]
    assert story.last.commands[0].undoes == (action,)
    assert story.run.cause == Cause("declined", "the bank said no")
    assert story.answers("reserve seat").status is Status.COMPENSATED
    assert story.step("reserve seat").status is StepStatus.UNDONE


def test_a_pivot_refused_after_its_writes_were_kept_has_not_happened() -> None:
    story = at_the_pivot().answers("charge", reply=pending()).answers("charge", reply=NO)
    assert story.step("charge").status is StepStatus.REFUSED
    assert story.run.cause == Cause("declined", "the bank said no")
    assert story.sent == ["undo reserve room"]


def test_a_retriable_step_refused_after_its_writes_were_kept_is_tried_anew() -> None:
    story = at_the_ticket()
    first = story.awaited("send ticket")
    story.answers("send ticket", reply=NO).repeat("send ticket")
    assert story.sent == ["do send ticket"]
    assert story.awaited("send ticket") != first


# What is kept to be shown


def test_the_last_answer_that_comes_later_is_kept_with_its_note_and_its_times() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending())
    assert awaited(story).pending == Pended("the guard", PROGRESS)
    story.repeat("reserve seat")
    assert awaited(story).pending == Pended("the guard", PROGRESS), "none has come since"
    story.answers("reserve seat", reply=pending("the bank", CALL, retry_after=1))
    assert awaited(story).pending == Pended("the bank", CALL)


@pytest.mark.parametrize("reply", [LOCKED, outcome("ongoing"), outcome("failed"), SEAT_7], ids=str)
def test_any_other_answer_clears_it(reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending()).repeat("reserve seat")
    story.answers("reserve seat", reply=reply)
    command = story.step("reserve seat").awaited
    assert command is None or command.pending is None


def test_what_cannot_be_read_of_it_counts_from_the_first_such_answer() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=Reply(Outcome.ONGOING, code=PENDING))
    since = story.now
    assert awaited(story).pending == Pended("", Progress(since))
    story.answers("reserve seat", reply=pending("a\0b" + "c" * 600))
    assert awaited(story).pending == Pended("a\ufffdb" + "c" * 497, PROGRESS)


def test_the_history_tells_what_is_new_and_keeps_room_for_the_answer() -> None:
    story = at_the_pivot()
    pivot = story.awaited("charge")
    for _ in range(50):
        story.answers("charge", reply=pending()).deadline("charge").repeat("charge")
    story.answers("charge", reply=pending("the bank")).answers("charge")
    told = [(it.happening, it.detail) for it in story.history if it.command_id == pivot]
    assert told == [
        (Happening.SENT, "payments.charge.v1"),
        (Happening.ANSWERED, "ongoing: pending: the guard"),
        (Happening.OVERDUE, "no definite answer by its deadline"),
        (Happening.ANSWERED, "ongoing: pending: the bank"),
        (Happening.ANSWERED, "done"),
    ]


# Twice, late, by message, and from strangers


def test_a_second_copy_of_it_does_not_put_the_next_time_off() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending())
    before = awaited(story)
    story.answers("reserve seat", reply=pending())
    assert (awaited(story), story.last.timers) == (before, ())


def test_a_late_copy_of_it_changes_nothing() -> None:
    story = Story(BOOKING)
    seat = story.awaited("reserve seat")
    story.answers("reserve seat", reply=pending()).answers("reserve seat")
    before = story.step("reserve seat")
    story.late(seat, pending())
    assert replace(story.step("reserve seat"), notes=before.notes) == before
    assert (story.sent, story.last.timers, story.happened) == ([], (), [Happening.LATE_ANSWER])


def test_one_that_comes_as_message_counts_where_the_transport_had_accepted_the_command() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=ACCEPTED)
    seat = story.awaited("reserve seat")
    story.hears(Replied(seat, pending(), "trains"))
    assert awaited(story).pending == Pended("the guard", PROGRESS)
    assert (awaited(story).wait, story.last.timers) == (Wait.ACCEPTED, ())
    assert story.last.withdrawn == ()
    story.hears(Replied(seat, pending(progress=CALL, retry_after=5), "trains"))
    assert story.pause() == 5
    story.repeat("reserve seat").answers("reserve seat", reply=ACCEPTED)
    assert awaited(story).pending == Pended("the guard", CALL), "being accepted is no answer"
    assert story.pause() == 120


def test_one_from_a_stranger_does_not_count() -> None:
    story = Story(BOOKING)
    before = story.step("reserve seat")
    story.hears(Replied(story.awaited("reserve seat"), pending(), "strangers"))
    assert story.step("reserve seat") == before
    assert story.happened == [Happening.REJECTED_ANSWER]


def test_a_step_that_waits_to_be_repeated_takes_it_for_a_late_copy() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=LOCKED)
    before = awaited(story)
    story.answers("reserve seat", reply=pending())
    assert (awaited(story), story.last.timers) == (before, ())


def test_a_stuck_step_shows_it_and_stays_stuck_until_its_answer_comes() -> None:
    story = at_the_pivot().buried("charge")
    stuck = story.step("charge")
    story.answers("charge", reply=pending(retry_after=5))
    assert awaited(story, "charge").pending == Pended("the guard", PROGRESS)
    assert (story.step("charge").status, story.step("charge").reason) == (
        StepStatus.STUCK,
        stuck.reason,
    )
    assert (story.sent, story.last.timers) == ([], ())
    story.hears(Retry("charge", "ann", "look again"))
    assert story.sent == ["do charge"]
    assert awaited(story, "charge").pending == Pended("the guard", PROGRESS)
    assert story.answers("charge").sent == ["do send ticket"]


def test_the_answer_to_a_stuck_step_that_was_pending_goes_on() -> None:
    story = at_the_pivot().buried("charge").answers("charge", reply=pending())
    assert story.answers("charge").sent == ["do send ticket"]


# Stored


def test_it_is_stored_with_the_run_and_a_row_of_older_code_has_none() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=pending(progress=CALL))
    assert record_of(row_of(story.run, BOOKING), BOOKING).instance == story.run
    older = record_of(row_of(story.run, BOOKING, "pending"), BOOKING).instance
    read = older.steps["reserve seat"].awaited
    assert read == replace(awaited(story), pending=None)


@pytest.mark.parametrize("reply", [pending(progress=CALL, retry_after=2.5), NO], ids=str)
def test_such_answers_are_stored_as_signals_as_they_are(reply: Reply) -> None:
    signal = Replied(Story(BOOKING).awaited("reserve seat"), reply, "trains")
    assert signal_rows.load(*signal_rows.dump(signal)) == signal
