"""From the start to COMPLETED: what is sent, when, and what the run learns."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.definition.steps import Step
from orchestrator.errors import InvalidInput
from orchestrator.machine.instance import Status, StepStatus, Wait
from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import Pause, Retry, Skip, TimerKind
from orchestrator.machine.transition import Happening
from outbox.ids import derive, is_id
from outbox.messages import Command
from outbox.replies import Reply
from tests.support.orchestrator.story import BEGIN, REFUSED, RUN_ID, SEAT_7, Story, outcome
from tests.support.orchestrator.trips import (
    BOOKING,
    CHARGE,
    DEADLINE,
    DEAF_SEAT,
    ROOM,
    SEAT,
    ReserveRoom,
    SendTicket,
    Trip,
    trip,
)


def test_a_start_sends_the_first_step() -> None:
    story = Story(BOOKING)
    assert story.sent == ["do reserve seat"]
    assert story.status is Status.RUNNING
    assert story.steps() == [StepStatus.SENT, *[StepStatus.PENDING] * 3]
    assert story.happened == [Happening.STARTED, Happening.SENT]


def test_a_state_that_was_accepted_is_not_looked_at_again() -> None:
    looked_at: list[str] = []

    def key(it: Trip) -> str:
        looked_at.append(it.trip)
        return it.trip

    saga = replace(BOOKING, key=key)
    assert start(saga, RUN_ID, Trip("t1"), BEGIN, key="t1").instance.key == "t1"
    assert looked_at == []
    assert start(saga, RUN_ID, Trip("t1"), BEGIN).instance.key == "t1"
    assert looked_at == ["t1"]


def test_each_success_sends_the_next_step_until_it_is_completed() -> None:
    story = Story(BOOKING)
    assert story.answers("reserve seat").sent == ["do reserve room"]
    assert story.answers("reserve room").sent == ["do charge"]
    assert story.answers("charge").sent == ["do send ticket"]
    assert story.answers("send ticket").sent == []
    assert story.status is Status.COMPLETED
    assert story.steps() == [StepStatus.DONE] * 4
    assert story.happened == [Happening.ANSWERED, Happening.ENDED]
    assert story.run.awaited_ids == frozenset()


def test_a_saga_of_compensatable_steps_alone_can_complete() -> None:
    assert Story(trip(SEAT, ROOM)).answers("reserve seat", "reserve room").status is (
        Status.COMPLETED
    )


def test_a_command_says_whom_it_is_for_and_what_it_is_ordered_by() -> None:
    (command,) = Story(BOOKING).last.commands
    assert command.participant == "trains"
    assert command.type == "trains.reserve-seat.v1"
    assert command.key == f"{RUN_ID}/reserve seat"
    assert json.loads(command.data) == {"trip": "t1"}
    assert command.undoes == ()


def test_ids_follow_from_run_step_direction_and_attempt() -> None:
    story = Story(BOOKING)
    assert story.awaited("reserve seat") == derive(RUN_ID, "reserve seat", "do", "1")
    assert is_id(story.awaited("reserve seat"))
    story.answers("reserve seat").answers("reserve room", reply=REFUSED)
    assert story.awaited("reserve seat") == derive(RUN_ID, "reserve seat", "undo", "1")


def test_only_what_comes_after_the_pivot_and_what_undoes_is_urgent() -> None:
    story = Story(BOOKING)
    urgent = {story.last.commands[0].step: story.last.commands[0].urgent}
    for step in ("reserve seat", "reserve room", "charge"):
        (command,) = story.answers(step).last.commands
        urgent[command.step] = command.urgent
    assert urgent == {
        "reserve seat": False,
        "reserve room": False,
        "charge": False,
        "send ticket": True,
    }
    (undo,) = (
        Story(BOOKING).answers("reserve seat").answers("reserve room", reply=REFUSED).last.commands
    )
    assert undo.urgent


def test_only_a_compensatable_action_expires_and_that_at_its_deadline() -> None:
    story = Story(BOOKING)
    assert story.last.commands[0].expires == BEGIN + DEADLINE
    story.answers("reserve seat", "reserve room")
    assert story.last.commands[0].expires is None
    story.answers("charge")
    assert story.last.commands[0].expires is None
    story = Story(BOOKING).answers("reserve seat").answers("reserve room", reply=REFUSED)
    assert story.last.commands[0].expires is None


def test_every_command_is_guarded_by_a_deadline() -> None:
    story = Story(BOOKING)
    timer = story.timer(TimerKind.DEADLINE)
    assert (timer.command_id, timer.due) == (story.awaited("reserve seat"), BEGIN + DEADLINE)
    for step in ("reserve seat", "reserve room", "charge"):
        story.answers(step)
        assert story.timer(TimerKind.DEADLINE).due == story.now + DEADLINE


def test_the_state_learns_from_an_answer_and_the_next_commands_know_it() -> None:
    story = Story(BOOKING).answers("reserve seat", reply=SEAT_7)
    assert story.run.state == Trip("t1", seat="7")
    (undo,) = story.answers("reserve room", reply=REFUSED).last.commands
    assert json.loads(undo.data) == {"trip": "t1", "seat": "7"}


def test_the_bytes_of_a_sent_command_are_kept_until_it_is_answered() -> None:
    story = Story(BOOKING)
    awaited = story.step("reserve seat").awaited
    assert awaited is not None
    assert awaited.data == story.last.commands[0].data
    assert awaited.wait is Wait.ANSWER
    assert story.answers("reserve seat").step("reserve seat").awaited is None


# Starts that are refused


@pytest.mark.parametrize("id", ["", "t1", RUN_ID.upper(), "0190a000-0000-4000-8000-000000000001"])
def test_a_start_needs_an_id_of_its_kind(id: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the id of a run"):
        start(BOOKING, id, Trip("t1"), BEGIN)


def test_a_start_with_an_input_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the key of this run"):
        start(BOOKING, RUN_ID, Trip(""), BEGIN)


def test_a_run_goes_on_only_with_the_definition_that_it_began_with() -> None:
    story = Story(BOOKING)
    with pytest.raises(ValueError, match="book-trip v1 cannot go on as book-trip v2"):
        advance(replace(BOOKING, version=2), story.run, Pause("ann", "lunch"), story.now)


# The saga's own functions fail


def broken(_: Trip) -> ReserveRoom:
    raise RuntimeError("no \0 room\ud800")


def untellable(_: Trip) -> ReserveRoom:
    class Untellable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    raise Untellable


def other(_: Trip) -> Command[None]:
    return SendTicket("t1")


def too_long(_: Trip) -> ReserveRoom:
    return ReserveRoom("t" * 300_000)


ODD = replace(ROOM, action=lambda it: other(it) if it.seat == "7" else ReserveRoom(it.trip))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (replace(ROOM, action=broken), "RuntimeError: no � room�"),
        (replace(ROOM, action=untellable), "Untellable"),
        (
            ODD,
            "InvalidMessage: it made mails.send-ticket.v1 instead of hotels.reserve-room.v1; let "
            "the function of a step always make the same command",
        ),
        (replace(ROOM, action=too_long), "MessageTooLarge: hotels.reserve-room.v1 is 300011 "),
    ],
    ids=["raises", "raises what cannot be told", "other command", "too large"],
)
def test_a_command_that_cannot_be_made_makes_the_run_stuck(step: Step[Trip], reason: str) -> None:
    story = Story(trip(SEAT, step, CHARGE)).answers("reserve seat")
    assert story.status is Status.STUCK
    assert story.sent == []
    stuck = story.step("reserve room")
    assert stuck.status is StepStatus.STUCK
    assert (stuck.reason or "").startswith(f"its command could not be made: {reason}")
    assert stuck.action_ids == ()
    assert story.happened == [Happening.ANSWERED, Happening.STUCK]


def test_a_command_that_could_not_be_made_is_made_when_a_person_retries() -> None:
    story = Story(trip(SEAT, replace(ROOM, action=broken))).answers("reserve seat")
    story.saga = trip(SEAT, ROOM)
    assert story.hears(Retry("reserve room", "ann", "mended")).sent == ["do reserve room"]
    assert story.status is Status.RUNNING


def test_a_first_command_that_cannot_be_made_makes_the_run_stuck_at_its_start() -> None:
    story = Story(trip(replace(ROOM, action=broken)))
    assert story.status is Status.STUCK
    assert story.happened == [Happening.STARTED, Happening.STUCK]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (outcome("done"), "InvalidMessage: "),
        (outcome("done", value={"number": 7}), "InvalidMessage: "),
        (outcome("done", value={"number": "none"}), "KeyError: 'none'"),
        (outcome("done", value={"number": "nul"}), "InvalidInput: this state of book-trip v1"),
        (outcome("done", value={"number": "gone"}), "InvalidInput: book-trip v1 runs on Trip"),
    ],
    ids=["no value", "wrong value", "raises", "cannot be stored", "returns no state"],
)
def test_an_answer_that_cannot_be_taken_in_is_kept_and_the_run_is_stuck(
    reply: Reply, reason: str
) -> None:
    def learn(state: Trip, reply: object) -> Trip:
        states = {"nul": replace(state, seat="\0"), "gone": None}
        return states[reply.number]  # type: ignore[attr-defined,return-value]  # that is what is tried

    story = Story(trip(replace(SEAT, on_reply=learn), CHARGE))
    story.answers("reserve seat", reply=reply)
    stuck = story.step("reserve seat")
    assert story.status is Status.STUCK
    assert stuck.kept == reply
    assert (stuck.reason or "").startswith(f"its answer could not be taken in: {reason}")
    assert story.sent == []
    assert story.run.state == Trip("t1")


def test_a_kept_answer_is_taken_in_when_a_person_retries() -> None:
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    story.saga = trip(SEAT, CHARGE)
    story.hears(Retry("reserve seat", "ann", "mended"))
    assert story.run.state.seat == "7"
    assert story.sent == ["do charge"]
    assert story.step("reserve seat").kept is None


def test_a_kept_answer_that_still_cannot_be_taken_in_leaves_the_run_stuck() -> None:
    story = Story(trip(DEAF_SEAT, CHARGE)).answers("reserve seat")
    story.hears(Retry("reserve seat", "ann", "perhaps"))
    assert story.status is Status.STUCK
    assert story.happened == [Happening.OPERATOR, Happening.STUCK]
    assert story.step("reserve seat").kept == SEAT_7


def test_a_kept_answer_may_be_replaced_by_a_person_who_supplies_the_result() -> None:
    def learn(state: Trip, reply: object) -> Trip:
        return replace(state, seat={"7": "seven"}[reply.number])  # type: ignore[attr-defined]  # a Seat it is

    story = Story(trip(replace(SEAT, on_reply=learn), CHARGE))
    story.answers("reserve seat", reply=outcome("done", value={"number": "9"}))
    story.hears(Skip("reserve seat", "ann", "was 7", result={"number": "7"}))
    assert story.run.state.seat == "seven"
    assert story.steps() == [StepStatus.SKIPPED, StepStatus.SENT]
    assert story.sent == ["do charge"]
