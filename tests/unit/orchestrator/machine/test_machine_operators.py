"""A person repairs what is stuck, or holds a run for a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import IllegalSignal, InvalidInput
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.machine.operator_rules import allowed_signals
from orchestrator.machine.signals import (
    Cancel,
    OperatorSignal,
    Pause,
    Resolve,
    Resume,
    Retry,
    Skip,
    Terminate,
)
from orchestrator.machine.transition import Happening
from outbox.replies import Reply
from tests.support.orchestrator.story import LOCKED, REFUSED, Story
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    DEAF_SEAT,
    SEAT,
    UNMAKEABLE_ROOM,
    ReserveSeat,
    Trip,
    trip,
)

WHO = ("ann", "looked into it")


def stuck_at_pivot() -> Story:
    return Story(BOOKING).answers("reserve seat", "reserve room").buried("charge")


def stuck_at_ticket() -> Story:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    return story.buried("send ticket")


def stuck_at_undo() -> Story:
    """The room's undo is stuck, and the seat waits for it."""
    story = Story(BOOKING).answers("reserve seat", "reserve room").answers("charge", reply=REFUSED)
    return story.buried("reserve room")


# Retry


def test_a_retry_sends_the_stuck_command_again_as_it_was() -> None:
    story = stuck_at_pivot()
    pivot = story.awaited("charge")
    story.hears(Retry("charge", *WHO))
    assert [command.id for command in story.last.commands] == [pivot]
    assert story.status is Status.RUNNING
    assert story.step("charge").status is StepStatus.SENT
    assert story.step("charge").reason is None
    assert story.last.timers != ()
    assert story.answers("charge").sent == ["do send ticket"]


def test_a_retry_of_what_was_refused_sends_a_new_command_and_counts_from_the_start() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    for _ in range(2):
        story.answers("send ticket", reply=REFUSED).repeat("send ticket")
    story.answers("send ticket", reply=REFUSED)
    used = story.step("send ticket").action_ids
    story.hears(Retry("send ticket", *WHO))
    assert story.sent == ["do send ticket"]
    assert story.awaited("send ticket") not in used
    assert story.answers("send ticket", reply=REFUSED).pause() == 1


def test_a_retry_of_what_was_locked_too_often_asks_the_same_again() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room")
    for _ in range(2):
        story.answers("charge", reply=LOCKED).repeat("charge")
    pivot = story.awaited("charge")
    story.answers("charge", reply=LOCKED).hears(Retry("charge", *WHO))
    assert [command.id for command in story.last.commands] == [pivot]
    assert story.answers("charge", reply=LOCKED).pause() == 1


def test_a_retry_of_a_stuck_undo_goes_on_backward() -> None:
    story = stuck_at_undo().hears(Retry("reserve room", *WHO))
    assert story.sent == ["undo reserve room"]
    assert story.status is Status.COMPENSATING
    assert story.answers("reserve room").sent == ["undo reserve seat"]


# Skip


def test_a_skipped_step_counts_as_done_and_is_shown_as_skipped() -> None:
    story = stuck_at_ticket()
    ticket = story.awaited("send ticket")
    story.hears(Skip("send ticket", *WHO))
    assert story.last.withdrawn == (ticket,)
    story.tells("send ticket", "absent")
    assert story.status is Status.COMPLETED
    assert story.step("send ticket").status is StepStatus.SKIPPED


def test_a_skipped_pivot_lets_the_run_go_on_and_never_back() -> None:
    story = stuck_at_pivot().hears(Skip("charge", *WHO)).tells("charge", "absent")
    assert story.sent == ["do send ticket"]
    assert "cancel" not in allowed_signals(BOOKING, story.run)


def unmakeable(_: Trip) -> ReserveSeat:
    raise RuntimeError


def test_a_skip_supplies_the_result_in_the_participants_place() -> None:
    story = Story(trip(replace(SEAT, action=unmakeable), CHARGE))
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    assert story.run.state.seat == "9"
    assert story.sent == ["do charge"]


@pytest.mark.parametrize("result", [None, {}, {"number": 9}, {"number": "\0"}])
def test_a_result_that_does_not_fit_is_refused_and_changes_nothing(result: object) -> None:
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    story.saga = trip(SEAT, CHARGE)
    before = story.run
    with pytest.raises(InvalidInput, match="the result given for step 'reserve seat' cannot be"):
        story.hears(Skip("reserve seat", *WHO, result=result))
    assert story.run is before
    assert story.step("reserve seat").kept is not None


def test_a_skipped_undo_is_listed_and_the_run_ends_resolved() -> None:
    story = stuck_at_undo().hears(Skip("reserve room", *WHO)).tells("reserve room", "absent")
    assert story.sent == ["undo reserve seat"]
    assert story.step("reserve room").status is StepStatus.SKIPPED
    assert story.answers("reserve seat").status is Status.RESOLVED
    assert story.run.not_undone == ("reserve room",)


def test_what_was_skipped_forward_and_never_sent_is_not_undone_but_listed() -> None:
    story = Story(trip(SEAT, UNMAKEABLE_ROOM, CHARGE)).answers("reserve seat")
    story.hears(Skip("reserve room", *WHO)).answers("charge", reply=REFUSED)
    assert story.sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.RESOLVED
    assert story.run.not_undone == ("reserve room",)
    assert story.step("reserve room").status is StepStatus.SKIPPED


def test_what_was_skipped_forward_after_it_ran_is_undone() -> None:
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    story.saga = trip(SEAT, CHARGE)
    story.hears(Skip("reserve seat", *WHO, result={"number": "9"}))
    assert story.answers("charge", reply=REFUSED).sent == ["undo reserve seat"]
    assert story.answers("reserve seat").status is Status.COMPENSATED


# Resolve


def test_a_resolved_run_lists_what_is_in_effect_or_may_be() -> None:
    story = stuck_at_undo()
    undo = story.awaited("reserve room")
    story.hears(Resolve(*WHO))
    assert story.status is Status.RESOLVED
    assert story.run.not_undone == ("reserve seat", "reserve room")
    assert story.last.withdrawn == (undo,)
    assert story.sent == []
    assert story.run.awaited_ids == frozenset()


def test_a_run_that_is_resolved_beyond_return_lists_all_that_was_done() -> None:
    story = stuck_at_ticket().hears(Resolve(*WHO))
    assert story.run.not_undone == ("reserve seat", "reserve room", "charge", "send ticket")


# Pause


def test_a_paused_run_takes_answers_in_and_sends_nothing_until_it_is_resumed() -> None:
    story = Story(BOOKING).hears(Pause(*WHO))
    assert story.run.paused
    assert story.answers("reserve seat").sent == []
    assert story.step("reserve seat").status is StepStatus.DONE
    assert story.status is Status.RUNNING
    assert story.hears(Resume(*WHO)).sent == ["do reserve room"]
    assert not story.run.paused


def test_a_paused_run_undoes_nothing_until_it_is_resumed() -> None:
    story = Story(BOOKING).answers("reserve seat").hears(Pause(*WHO))
    assert story.answers("reserve room", reply=REFUSED).sent == []
    assert story.status is Status.COMPENSATING
    assert story.hears(Resume(*WHO)).sent == ["undo reserve seat"]


@pytest.mark.parametrize("reply", [LOCKED, REFUSED], ids=["repeat", "anew"])
def test_what_comes_due_during_a_pause_is_sent_after_it(reply: Reply) -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room", "charge")
    story.answers("send ticket", reply=reply).hears(Pause(*WHO))
    assert story.repeat("send ticket").sent == []
    assert story.hears(Resume(*WHO)).sent == ["do send ticket"]


def test_a_retry_during_a_pause_is_sent_after_it() -> None:
    story = stuck_at_pivot().hears(Pause(*WHO), Retry("charge", *WHO))
    assert (story.sent, story.status) == ([], Status.RUNNING)
    assert story.hears(Resume(*WHO)).sent == ["do charge"]


def test_a_stuck_command_is_not_sent_by_a_resume() -> None:
    story = Story(BOOKING).answers("reserve seat", "reserve room").hears(Pause(*WHO))
    story.deadline("charge").buried("charge").hears(Resume(*WHO))
    assert story.sent == []
    assert story.status is Status.STUCK


def test_a_run_whose_last_answer_comes_during_a_pause_has_ended() -> None:
    story = Story(trip(SEAT)).hears(Pause(*WHO)).answers("reserve seat")
    assert story.status is Status.COMPLETED
    assert not story.run.paused
    story = Story(trip(SEAT)).hears(Pause(*WHO)).answers("reserve seat", reply=REFUSED)
    assert story.status is Status.COMPENSATED


# What is possible when


def completed() -> Story:
    return Story(trip(SEAT)).answers("reserve seat")


@pytest.mark.parametrize(
    ("story", "allowed"),
    [
        (Story(BOOKING), ("cancel", "pause", "terminate")),
        (Story(BOOKING).hears(Pause(*WHO)), ("cancel", "resume", "terminate")),
        (
            Story(BOOKING).answers("reserve seat", "reserve room"),
            ("pause", "terminate"),
        ),
        (stuck_at_pivot(), ("pause", "resolve", "retry", "skip", "terminate")),
        (stuck_at_undo(), ("pause", "resolve", "retry", "skip", "terminate")),
        (Story(BOOKING).deadline("reserve seat"), ("pause", "terminate")),
        (completed(), ()),
        (Story(BOOKING).hears(Terminate(*WHO)), ()),
        (stuck_at_undo().hears(Resolve(*WHO)), ()),
    ],
    ids=[
        "running",
        "paused",
        "pivot sent",
        "stuck forward",
        "stuck backward",
        "compensating",
        "completed",
        "terminated",
        "resolved",
    ],
)
def test_what_a_person_may_do_depends_on_how_the_run_stands(
    story: Story, allowed: tuple[str, ...]
) -> None:
    assert allowed_signals(story.saga, story.run) == allowed
    signals: list[OperatorSignal] = [
        Cancel(*WHO),
        Terminate(*WHO),
        Retry("charge", *WHO),
        Skip("charge", *WHO),
        Resolve(*WHO),
        Pause(*WHO),
        Resume(*WHO),
    ]
    before = story.run
    for signal in signals:
        verb = type(signal).__name__.lower()
        if verb not in allowed:
            with pytest.raises(IllegalSignal) as caught:
                story.hears(signal)
            assert caught.value.allowed == allowed
            assert caught.value.status == story.status
            assert story.run is before


@pytest.mark.parametrize("step", ["reserve seat", "send ticket", "no such step"])
def test_only_a_stuck_step_can_be_retried_or_skipped(step: str) -> None:
    story = stuck_at_pivot()
    with pytest.raises(IllegalSignal) as caught:
        story.hears(Retry(step, *WHO))
    assert str(caught.value) == (
        f"there is nothing to retry at step {step!r}; stuck is 'charge'; what is possible now: "
        "pause, resolve, retry, skip, terminate"
    )
    with pytest.raises(IllegalSignal, match="there is nothing to skip at step"):
        story.hears(Skip(step, *WHO))


def test_a_signal_to_a_run_that_has_ended_says_so() -> None:
    with pytest.raises(IllegalSignal) as caught:
        completed().hears(Pause(*WHO))
    assert str(caught.value) == (
        "pause is not possible while the run is COMPLETED; what is possible now: nothing, for it "
        "has ended"
    )


def test_what_a_person_does_is_in_the_history_with_name_and_reason() -> None:
    story = stuck_at_pivot().hears(Retry("charge", "ann\0", "the till\ud800 works"))
    entry = story.last.history[0]
    assert (entry.happening, entry.step) == (Happening.OPERATOR, "charge")
    assert (entry.actor, entry.detail) == ("ann�", "retry: the till� works")
