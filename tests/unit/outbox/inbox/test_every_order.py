"""The machine under every order of messages, timers and faults: see `orchestrator.testing`.

The second half breaks the machine or the participants, and sees that it is found.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.testing import Event, Exploration, Faults, What, explore
from orchestrator.testing.exploring.walk.explorer import Rig
from outbox.replies import Outcome
from outbox.retry import RetryPolicy
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trips import CHARGE, ROOM, SEAT, TICKET, Trip, trip

BRIEF = RetryPolicy(attempts=2)
FIRST = replace(SEAT, on_reply=None, retry=BRIEF)
SECOND = replace(ROOM, retry=BRIEF)
BESIDE = replace(SECOND, after=())
PIVOT = replace(CHARGE, retry=BRIEF)
LAST = replace(TICKET, retry=BRIEF)

IN_A_ROW = trip(FIRST, SECOND, PIVOT, LAST)
NO_PIVOT = trip(FIRST, SECOND, LAST)
NO_RETURN_NEEDED = trip(FIRST, SECOND)
SIDE_BY_SIDE = trip(FIRST, BESIDE, PIVOT, LAST)
SHORT = trip(FIRST, PIVOT)
SHORTEST = trip(FIRST)

NETWORK = Faults(duplicates=1, losses=1, crashes=1)
MANY = Faults(duplicates=2, losses=1, crashes=2)
BOTH_ENDS = {Status.COMPLETED, Status.COMPENSATED}
WITH_STUCK = BOTH_ENDS | {Status.STUCK}


def explored(saga: Saga[Trip], faults: Faults) -> Exploration:
    return explore(saga, Trip("t1"), faults=faults).check()


@pytest.mark.parametrize(
    ("saga", "faults", "at_least"),
    [
        (IN_A_ROW, replace(NETWORK, late=1), 4_000),
        (NO_PIVOT, replace(NETWORK, late=1), 2_200),
        (NO_RETURN_NEEDED, replace(NETWORK, late=1), 2_000),
        (SIDE_BY_SIDE, NETWORK, 6_500),
        (SHORT, Faults(duplicates=2, losses=1, crashes=1, late=2, cancels=1), 1_500),
    ],
    ids=["in a row", "no pivot", "compensatable only", "side by side", "short, more faults"],
)
def test_with_every_order_of_the_network_the_run_ends_with_every_effect_or_none(
    saga: Saga[Trip], faults: Faults, at_least: int
) -> None:
    report = explored(saga, faults)
    # Nothing but a participant or a person makes a run stuck.
    assert report.ends == BOTH_ENDS
    assert report.worlds >= at_least


@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (IN_A_ROW, Faults(duplicates=1, crashes=1, cancels=1)),
        (NO_PIVOT, Faults(losses=1, late=1, cancels=1)),
        (SIDE_BY_SIDE, Faults(late=1, cancels=1)),
    ],
    ids=["in a row", "no pivot", "side by side"],
)
def test_a_cancel_at_any_moment_undoes_everything_or_comes_too_late(
    saga: Saga[Trip], faults: Faults
) -> None:
    assert explored(saga, faults).ends == BOTH_ENDS


@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (IN_A_ROW, Faults(duplicates=1, refusals=2, retries=1)),
        (NO_PIVOT, Faults(late=1, refusals=2, retries=1)),
        (SIDE_BY_SIDE, Faults(refusals=2, retries=1)),
        (IN_A_ROW, Faults(duplicates=1, locks=3, retries=1)),
        (IN_A_ROW, Faults(crashes=1, burials=1, retries=2)),
        (NO_PIVOT, Faults(duplicates=1, burials=1, cancels=1, retries=1)),
    ],
    ids=[
        "refused",
        "refused, no pivot",
        "refused, side by side",
        "locked",
        "buried",
        "buried and cancelled",
    ],
)
def test_what_a_participant_cannot_do_stands_stuck_and_can_be_repaired(
    saga: Saga[Trip], faults: Faults
) -> None:
    assert explored(saga, faults).ends == WITH_STUCK


def test_what_a_person_skips_is_never_said_to_be_undone() -> None:
    report = explored(IN_A_ROW, Faults(duplicates=1, burials=1, refusals=1, skips=1))
    assert report.ends == WITH_STUCK | {Status.RESOLVED}


@pytest.mark.parametrize("saga", [SHORT, NO_RETURN_NEEDED], ids=["short", "compensatable only"])
def test_a_pause_at_any_moment_changes_nothing_about_the_end(saga: Saga[Trip]) -> None:
    faults = Faults(duplicates=1, losses=1, late=1, pauses=1, cancels=1)
    assert explored(saga, faults).ends == BOTH_ENDS


def test_four_steps_with_two_crashes_two_duplicates_and_a_loss_take_seconds() -> None:
    began = time.process_time()
    report = explored(IN_A_ROW, MANY)
    assert time.process_time() - began < 10
    assert report.ends == BOTH_ENDS
    assert report.worlds > 11_000


@pytest.mark.soak
def test_with_a_cancel_and_a_repair_by_a_person_they_take_less_than_a_minute() -> None:
    began = time.process_time()
    report = explored(IN_A_ROW, replace(MANY, cancels=1, burials=1, retries=1))
    assert time.process_time() - began < 60
    assert report.ends == WITH_STUCK
    assert report.worlds > 50_000


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (IN_A_ROW, replace(MANY, late=1, cancels=1, refusals=2, retries=1)),
        (SIDE_BY_SIDE, replace(NETWORK, late=1, cancels=1)),
    ],
    ids=["in a row", "side by side"],
)
def test_with_more_faults_at_once_the_run_still_ends_with_every_effect_or_none(
    saga: Saga[Trip], faults: Faults
) -> None:
    report = explored(saga, faults)
    assert report.ends >= BOTH_ENDS
    assert report.worlds > 50_000


# What must be found


def found(
    saga: Saga[Trip],
    right: str,
    wrong: str,
    faults: Faults = NETWORK,
) -> str:
    """Which promise breaks with one line of the machine changed."""
    mutant = mutated_machine(right, wrong)
    violation = explore(saga, Trip("t1"), faults=faults, rig=Rig(machine=mutant)).violation
    assert violation is not None
    assert violation.trace[0] == Event(What.STARTS)
    return violation.promise


def test_without_the_barrier_an_action_and_its_undo_are_both_in_effect() -> None:
    faults = Faults(duplicates=1, late=1)
    report = explore(SHORTEST, Trip("t1"), faults=faults, rig=Rig(barrier=False))
    assert report.violation is not None
    assert report.violation.promise == "P3"
    assert report.violation.trace == (
        Event(What.STARTS),
        Event(What.DEADLINE, "reserve seat"),
        Event(What.ARRIVES, "reserve seat", undo=True, answer=Outcome.DONE),
    )


@pytest.mark.parametrize("saga", [IN_A_ROW, NO_PIVOT], ids=["in a row", "no pivot"])
def test_compensations_in_the_wrong_order_are_found(saga: Saga[Trip]) -> None:
    faults = Faults(cancels=1)
    right = "builder.saga.followers[step.name]"
    assert found(saga, right, "builder.saga.dependencies[step.name]", faults) == "order"


def test_compensations_all_at_once_are_found() -> None:
    assert found(IN_A_ROW, "builder.saga.followers[step.name]", "()", Faults()) == "order"


def test_a_refused_pivot_that_is_taken_for_one_in_doubt_is_found() -> None:
    right = "_refused(builder, step.name, reply, words)"
    wrong = f"{right} if step.kind is Kind.COMPENSATABLE else _undecided(builder, step.name, words)"
    assert found(IN_A_ROW, right, wrong, Faults()) == "end"


def test_a_refused_pivot_that_is_tried_anew_like_a_retriable_step_is_found() -> None:
    right = "if step.kind is Kind.RETRIABLE:"
    wrong = "if step.kind is not Kind.COMPENSATABLE:"
    mutant = mutated_machine(right, wrong)
    found = explore(IN_A_ROW, Trip("t1"), faults=Faults(), rig=Rig(machine=mutant))
    assert Status.STUCK in found.ends


def test_a_step_in_doubt_that_is_not_undone_is_found() -> None:
    right = "        if run.action_ids:\n"
    wrong = "        if run.action_ids and run.status is not StepStatus.SENT:\n"
    assert found(SHORTEST, right, wrong) == "P4"


def test_a_pivot_that_turns_the_run_back_at_its_deadline_is_found() -> None:
    right = "return may_be_undone(builder, name) and not builder.is_undo(name)"
    wrong = "return not builder.is_undo(name)"
    assert found(IN_A_ROW, right, wrong) == "total"


def test_a_cancel_after_the_point_of_no_return_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.machine.operator_rules.passed", lambda saga, instance: [])
    # Since a pivot has no compensation, it is not undone wrongly, but blocks the way back.
    violation = explore(SHORT, Trip("t1"), faults=Faults(cancels=1)).violation
    assert violation is not None
    assert (violation.promise, violation.trace[-1].what) == ("total", What.CANCEL)


def test_a_command_in_doubt_that_is_never_asked_for_again_is_found() -> None:
    right = "        builder.wait(name, Wait.SENDING)\n    builder.put_awaited"
    assert found(IN_A_ROW, right, "        pass\n    builder.put_awaited") == "end"


def test_a_run_that_is_said_to_be_undone_too_early_is_found() -> None:
    right = "MAY_BE_IN_EFFECT = _TO_BE_UNDONE | {StepStatus.UNDOING, StepStatus.STUCK}"
    wrong = "MAY_BE_IN_EFFECT = _TO_BE_UNDONE"
    assert found(SHORTEST, right, wrong) == "P4"


def test_a_run_that_goes_forward_again_is_found() -> None:
    right = "    builder.settle(name, StepStatus.UNDONE)\n"
    forward = "direction=type(builder.instance.direction).FORWARD"
    again = f"    builder.instance = replace(builder.instance, {forward})\n"
    assert found(IN_A_ROW, right, right + again) == "P5"
