"""What a step waits for, by its record and by what is in the way of its command."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.api.models import StepStatusOut
from orchestrator.api.waits import LiveRun, Waiting, WaitsFor, foremost
from orchestrator.machine.instance import Direction, Pended, StepRun, StepStatus, Wait
from orchestrator.machine.machine import start
from orchestrator.machine.signals import TimerKind
from orchestrator.machine.transition import Timer
from orchestrator.store.records import Standing
from orchestrator.store.waits import Obstacles, Rest, Unanswering
from outbox.ids import compose
from outbox.replies import Progress
from tests.support.orchestrator.trips import BOOKING, SIDE_BY_SIDE, Trip

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=9)
SHARD = 3
BEGUN = start(SIDE_BY_SIDE, compose(1_900_000_000_000, 1), Trip("one"), NOON).instance
RUN = BEGUN.steps["reserve seat"]
ROOM = BEGUN.steps["reserve room"]
assert RUN.awaited is not None
assert ROOM.awaited is not None
ID = RUN.awaited.id
REST = Rest(3, LATER, "failed: boom")
SILENCE = Unanswering(NOON, 7, "no service listens", LATER + timedelta(seconds=1))
RESTS, SILENT = {ID: REST}, {(SHARD, "trains"): SILENCE}


def live(**steps: StepRun) -> LiveRun:
    timers = (Timer(TimerKind.DEADLINE, ID, NOON), Timer(TimerKind.REPEAT, ID, LATER))
    named = {name.replace("_", " "): run for name, run in steps.items()}
    return LiveRun(SHARD, Standing(named, Direction.FORWARD, (), None, timers), BOOKING)


def waits(run: StepRun, obstacles: Obstacles | None = None) -> Waiting | None:
    return live(reserve_seat=run).waiting(obstacles or Obstacles()).get("reserve seat")


def at(wait: Wait, reason: str | None = None, tries: int = 0) -> StepRun:
    assert RUN.awaited is not None
    return replace(RUN, awaited=replace(RUN.awaited, wait=wait), reason=reason, tries=tries)


def pended(wait: Wait) -> StepRun:
    run = at(wait)
    assert run.awaited is not None
    pending = Pended("the owner", Progress(NOON))
    return replace(run, awaited=replace(run.awaited, pending=pending))


@pytest.mark.parametrize(
    ("run", "waiting"),
    [
        (at(Wait.SENDING), Waiting(WaitsFor.RESUME)),
        (at(Wait.ANSWER), Waiting(WaitsFor.ANSWER)),
        (at(Wait.ACCEPTED), Waiting(WaitsFor.ANSWER, next_at=LATER)),
        (pended(Wait.ACCEPTED), Waiting(WaitsFor.PENDING, next_at=LATER, note="the owner")),
        (pended(Wait.ANSWER), Waiting(WaitsFor.PENDING, note="the owner")),
        (pended(Wait.SENDING), Waiting(WaitsFor.RESUME)),
        (at(Wait.REPEAT, "locked: x", 2), Waiting(WaitsFor.LOCK, 2, "locked: x", LATER)),
        (at(Wait.REPEAT, "ongoing", 1), Waiting(WaitsFor.ONGOING, 1, "ongoing", LATER)),
        (at(Wait.ANSWER, "locked: x", 2), Waiting(WaitsFor.LOCK, 2, "locked: x")),
        (at(Wait.ANSWER, "no definite answer by its deadline"), Waiting(WaitsFor.ANSWER)),
        (at(Wait.ANEW, "refused: no", 4), Waiting(WaitsFor.ANEW, 4, "refused: no", LATER)),
        (
            replace(at(Wait.ANSWER, "look"), status=StepStatus.STUCK),
            Waiting(WaitsFor.OPERATOR, 0, "look"),
        ),
        (StepRun(), None),
    ],
)
def test_what_a_step_waits_for_follows_from_its_record(
    run: StepRun, waiting: Waiting | None
) -> None:
    assert waits(run) == waiting


def test_what_is_in_the_way_of_a_command_counts_while_its_answer_is_awaited() -> None:
    run = at(Wait.ANSWER)
    assert waits(run, Obstacles(rests=RESTS)) == Waiting(WaitsFor.RETRY, 3, "failed: boom", LATER)
    assert waits(run, Obstacles(silent=SILENT)) == Waiting(
        WaitsFor.PARTICIPANT, next_at=SILENCE.next_at, silence=SILENCE
    )
    # The next try comes when both are over.
    assert waits(run, Obstacles(RESTS, SILENT)) == Waiting(
        WaitsFor.PARTICIPANT, 3, "failed: boom", SILENCE.next_at, SILENCE
    )
    other = Obstacles(silent={(SHARD + 1, "trains"): SILENCE, (SHARD, "hotels"): SILENCE})
    assert waits(run, other) == Waiting(WaitsFor.ANSWER)
    locked = at(Wait.REPEAT, "locked: x")
    assert waits(locked, Obstacles(RESTS, SILENT)) == waits(locked)


def test_only_commands_that_are_on_their_way_are_looked_for() -> None:
    (command,) = live(reserve_seat=at(Wait.ANSWER), reserve_room=StepRun()).sent()
    assert (command.id, command.shard, command.participant) == (ID, SHARD, "trains")
    assert live(reserve_seat=at(Wait.REPEAT)).sent() == []
    assert replace(live(reserve_seat=at(Wait.ANSWER)), definition=None).sent() == []


def test_a_run_waits_for_what_is_most_in_the_way_of_its_steps() -> None:
    run = live(reserve_seat=at(Wait.ANSWER), reserve_room=ROOM)
    assert foremost(run.waiting(Obstacles())) == ("reserve seat", Waiting(WaitsFor.ANSWER))
    assert foremost(run.waiting(Obstacles(silent={(SHARD, "hotels"): SILENCE}))) == (
        "reserve room",
        Waiting(WaitsFor.PARTICIPANT, next_at=SILENCE.next_at, silence=SILENCE),
    )
    assert foremost({}) is None


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        (Waiting(WaitsFor.OPERATOR, 0, "look"), "look"),
        (Waiting(WaitsFor.PARTICIPANT, 3, "failed: boom", silence=SILENCE), "no service listens"),
        (Waiting(WaitsFor.PENDING, note="the owner"), "the owner"),
        (Waiting(WaitsFor.PENDING, note=""), None),
        (Waiting(WaitsFor.ANSWER), None),
    ],
)
def test_a_step_that_waits_tells_the_reason_where_more_is_known_than_the_word(
    waiting: Waiting, reason: str | None
) -> None:
    assert waiting.reason == reason


def test_the_api_shows_every_status_of_a_step_and_one_that_is_derived() -> None:
    assert {it.name for it in StepStatusOut} == {it.name for it in StepStatus} | {"WAITING"}


@pytest.mark.parametrize(
    ("status", "is_waiting"),
    [
        (StepStatus.SENT, True),
        (StepStatus.UNDOING, True),
        (StepStatus.IN_DOUBT, False),
        (StepStatus.STUCK, False),
    ],
)
def test_a_step_waits_that_is_under_way_and_whose_answer_comes_later(
    status: StepStatus, is_waiting: bool
) -> None:
    assert replace(pended(Wait.ACCEPTED), status=status).is_waiting is is_waiting
    assert not replace(at(Wait.ACCEPTED), status=status).is_waiting
