"""Explored runs whose participants answer later, of themselves or by a call to the outside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from orchestrator.testing import Event, Faults, PromiseBroken, View, What, explore, replay
from orchestrator.testing.exploring.walk.explorer import Rig
from outbox.replies import Outcome
from outbox.retry import RetryPolicy
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trips import CHARGE, ROOM, SEAT, TICKET, Trip, trip

DONE, ONGOING = Outcome.DONE, Outcome.ONGOING
BRIEF = RetryPolicy(attempts=2)
FIRST = replace(SEAT, on_reply=None, retry=BRIEF)
BESIDE = replace(ROOM, retry=BRIEF, after=())
ALL = trip(FIRST, replace(CHARGE, retry=BRIEF), replace(TICKET, retry=BRIEF))
BOTH_ENDS = {Status.COMPLETED, Status.COMPENSATED}


@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (delete_article, Faults(pendings=2, losses=1)),
        (ALL, Faults(pendings=1, losses=1, late=1, crashes=1)),
        (ALL, Faults(pendings=2, duplicates=1, cancels=1)),
        (ALL, Faults(pendings=1, accepted=1, losses=1)),
        (trip(FIRST, BESIDE), Faults(pendings=2, cancels=1)),
        (ALL, Faults(calls=2, losses=1)),
        (ALL, Faults(calls=1, pendings=1, duplicates=1, cancels=1)),
    ],
    ids=["blog", "late", "doubled", "accepted", "side by side", "called", "called and pending"],
)
def test_however_late_an_answer_comes_the_run_ends_with_every_effect_or_none(
    saga: Saga[Trip], faults: Faults
) -> None:
    assert explore(saga, faults=faults).check().ends == BOTH_ENDS


@pytest.mark.parametrize("faults", [Faults(pendings=2), Faults(calls=2)], ids=["told", "called"])
def test_a_compensation_that_is_pending_and_then_refused_is_tried_again(faults: Faults) -> None:
    found = explore(trip(FIRST, CHARGE), faults=replace(faults, refusals=2, retries=1)).check()
    assert found.ends == BOTH_ENDS | {Status.STUCK}


@pytest.mark.parametrize("faults", [Faults(pendings=1), Faults(calls=1)], ids=["told", "called"])
def test_a_run_that_a_person_ends_lists_what_is_pending(faults: Faults) -> None:
    by_hand = replace(faults, terminations=1, burials=1, skips=1, resolutions=1)
    found = explore(ALL, faults=by_hand).check()
    assert {Status.TERMINATED, Status.RESOLVED} < found.ends


def test_a_call_whose_end_is_not_known_is_made_again_or_leaves_the_run_stuck() -> None:
    # After the point of no return: before it, an effect that comes late is undone.
    found = explore(trip(CHARGE, TICKET), faults=Faults(calls=1, hangs=1, losses=1)).check()
    assert found.ends == BOTH_ENDS | {Status.STUCK}


@pytest.mark.parametrize(
    "faults",
    [
        Faults(calls=1, hangs=1, losses=1, late=1),
        Faults(calls=2, hangs=2),
        Faults(calls=1, hangs=1, burials=1, skips=1, retries=1),
    ],
    ids=["late", "twice", "skipped"],
)
def test_a_call_that_hangs_is_undone_once_more_or_listed_as_a_stray_effect(faults: Faults) -> None:
    found = explore(trip(FIRST, replace(CHARGE, retry=BRIEF)), faults=faults).check()
    assert found.ends >= BOTH_ENDS | {Status.STUCK}


# That mistakes with it are found


@pytest.mark.parametrize(
    ("right", "wrong", "faults", "promise"),
    [
        (
            "        case Wait.REPEAT | Wait.ACCEPTED:\n",
            "        case Wait.ACCEPTED:\n            pass\n        case Wait.REPEAT:\n",
            Faults(pendings=1, losses=1),
            "end",
        ),
        (
            "    if reply.is_pending:\n        pended(builder, name, reply, words)",
            "    if reply.is_pending:\n        builder.settle(name, StepStatus.DONE)",
            Faults(pendings=1),
            "P4",
        ),
        (
            "        case Outcome.REFUSED if reply.after_pending and "
            "step.kind is Kind.COMPENSATABLE:",
            "        case Outcome.REFUSED if False:",
            Faults(pendings=1),
            "P4",
        ),
    ],
    ids=["not asked again", "taken for done", "a late refusal is not undone"],
)
def test_a_machine_that_takes_a_pending_answer_wrongly_is_found(
    right: str, wrong: str, faults: Faults, promise: str
) -> None:
    rig = Rig(machine=mutated_machine(right, wrong))
    assert explore(ALL, faults=replace(faults, pendings=0), rig=rig).violation is None
    violation = explore(ALL, faults=faults, rig=rig).violation
    assert violation is not None
    assert violation.promise == promise


# Its story


def _arrives(step: str, answer: Outcome = DONE, *, later: bool = False, call: int = 0) -> Event:
    return Event(What.ARRIVES, step, answer=answer, later=later, call=call)


def _is_never_charged(view: View) -> bool:
    return "charge" not in view.in_effect


def _played(*events: Event) -> list[str]:
    """The story of these events and of a charge, which breaks a promise; empty where one of them
    cannot happen."""
    trace = [Event(What.STARTS), *events]
    try:
        replay(trip(CHARGE, TICKET), {"trip": "t1"}, trace, invariants=[_is_never_charged])
    except PromiseBroken as broken:
        violation = broken.violation
    else:
        return []
    return violation.story.splitlines()[2:]


def test_a_story_tells_of_an_answer_that_comes_later() -> None:
    assert _played(_arrives("charge", ONGOING, later=True)) == [
        "  2. 'charge' arrives and begins; its answer comes later"
    ]


def test_a_story_tells_of_a_call_its_repetition_and_its_end() -> None:
    answered = Event(What.ANSWERED, "charge", answer=ONGOING, later=True, call=1)
    assert _played(
        _arrives("charge", ONGOING, later=True, call=1),
        answered,
        Event(What.DIED, "charge", call=1),
        Event(What.REPEAT, "charge"),
        _arrives("charge", ONGOING, later=True, call=2),
        Event(What.OVERDUE, "charge", call=2),
        Event(What.COMPLETED, "charge", answer=DONE, call=2),
    ) == [
        "  2. 'charge' arrives, and a call to the outside is made for it",
        "  3. the answer to 'charge' arrives: its answer comes later",
        "  4. the process that makes the call to the outside for 'charge' dies",
        "  5. it is time to try 'charge' again; 'charge' is sent",
        "  6. 'charge' arrives, and a call to the outside is made for it once more",
        "  7. the time of call 2 to the outside for 'charge' passes, and it goes on",
        "  8. call 2 to the outside for 'charge' is completed: done",
    ]
