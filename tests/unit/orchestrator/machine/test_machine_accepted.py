"""Commands that the transport only took, and answers that come as messages."""

from __future__ import annotations

import pytest

from orchestrator.machine.instance import Cause, Status, StepStatus, Wait
from orchestrator.machine.signals import ACCEPTED, Replied, TimerKind
from orchestrator.machine.transition import Happening
from outbox.replies import DEAD_LETTER, Outcome, Reply
from tests.support.orchestrator.story import LOCKED, REFUSED, SEAT_7, Story
from tests.support.orchestrator.trips import BOOKING


def accepted() -> Story:
    return Story(BOOKING).answers("reserve seat", reply=ACCEPTED)


def wait_of(story: Story) -> Wait:
    awaited = story.step("reserve seat").awaited
    assert awaited is not None
    return awaited.wait


def by_message(story: Story, reply: Reply, source: str = "trains") -> Story:
    return story.hears(Replied(story.awaited("reserve seat"), reply, source))


def test_an_accepted_command_is_repeated_after_a_minute_that_grows_to_an_hour() -> None:
    story = accepted()
    before = story.step("reserve seat").awaited
    pauses = [story.pause()]
    for _ in range(8):
        story.repeat("reserve seat")
        assert story.sent == ["do reserve seat"]
        again = story.last.commands[0]
        assert before is not None
        assert (again.id, again.data) == (before.id, before.data)
        pauses.append(story.answers("reserve seat", reply=ACCEPTED).pause())
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert story.step("reserve seat").tries == 0, "being accepted uses up no try"


def test_the_pause_grows_with_acceptances_and_not_with_what_was_sent_in_vain() -> None:
    """While a participant is away, its commands are sent again and again."""
    story = accepted().deadline("reserve seat")  # turns back
    for _ in range(100):
        story.deadline("reserve seat")
    awaited = story.step("reserve seat").awaited
    assert awaited is not None
    assert awaited.sendings > 100
    assert story.answers("reserve seat", reply=ACCEPTED).pause() == 60


def test_an_answer_that_overtakes_the_acceptance_wins() -> None:
    story = Story(BOOKING)
    seat = story.awaited("reserve seat")
    by_message(story, SEAT_7)
    story.late(seat, ACCEPTED)
    assert story.step("reserve seat").status is StepStatus.DONE
    assert (story.sent, story.last.timers, story.happened) == ([], (), [])


def test_a_lock_that_overtakes_the_acceptance_sets_the_time() -> None:
    story = by_message(Story(BOOKING), LOCKED)
    assert wait_of(story) is Wait.REPEAT
    story.answers("reserve seat", reply=ACCEPTED)
    assert (wait_of(story), story.last.timers) == (Wait.REPEAT, ())


def test_a_lock_that_comes_after_the_acceptance_counts() -> None:
    story = by_message(accepted(), LOCKED)
    assert wait_of(story) is Wait.REPEAT
    assert story.pause() < 60


def test_a_definite_answer_by_message_withdraws_the_command() -> None:
    story = accepted()
    seat = story.awaited("reserve seat")
    assert by_message(story, SEAT_7).last.withdrawn == (seat,)
    assert story.step("reserve seat").status is StepStatus.DONE


def test_a_refusal_by_message_turns_the_run_back() -> None:
    assert by_message(accepted(), REFUSED).status is Status.COMPENSATED


@pytest.mark.parametrize("reply", [SEAT_7, REFUSED, LOCKED, Reply(Outcome.REJECTED)], ids=str)
def test_an_answer_from_a_stranger_does_not_count(reply: Reply) -> None:
    story = accepted()
    before = story.step("reserve seat")
    by_message(story, reply, "strangers")
    assert story.step("reserve seat") == before
    assert (story.sent, story.last.timers, story.last.withdrawn) == ([], (), ())
    assert story.happened == [Happening.REJECTED_ANSWER]
    assert story.last.history[0].detail.startswith("from strangers, not from trains: ")


def test_a_rejection_by_message_is_a_burial() -> None:
    story = by_message(accepted(), Reply(Outcome.REJECTED, code="invalid"))
    assert Happening.BURIED in story.happened
    assert story.run.direction.value == "backward"
    assert story.run.cause == Cause(
        "dead-letter", "its command was given up by the consumer of trains: rejected: invalid"
    )


def test_a_command_that_its_consumer_keeps_is_said_to_lie_there() -> None:
    story = by_message(accepted(), Reply(Outcome.REJECTED, code=DEAD_LETTER, reason="no seats"))
    assert story.run.cause == Cause(
        "dead-letter",
        "its command was given up by the consumer of trains, which keeps it (sagabox outbox "
        "received list --service trains): rejected: dead-letter: no seats",
    )


def test_the_deadline_of_an_accepted_command_turns_the_run_back() -> None:
    assert accepted().deadline("reserve seat").run.direction.value == "backward"


def test_the_deadline_of_an_accepted_undo_does_not_hurry_it() -> None:
    story = accepted().deadline("reserve seat").answers("reserve seat", reply=ACCEPTED)
    assert story.undoes("reserve seat")
    story.deadline("reserve seat")
    assert (story.sent, wait_of(story)) == ([], Wait.ACCEPTED)
    assert [it.kind for it in story.last.timers] == []
    story.repeat("reserve seat")
    assert story.sent == ["undo reserve seat"]
    assert story.timer(TimerKind.DEADLINE).due > story.now
