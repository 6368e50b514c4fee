"""Explored runs that retention removes once they have ended, while copies of their messages are on
their way, and their starts come again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status
from orchestrator.sagas.delete_article import delete_article
from orchestrator.testing import Event, Faults, PromiseBroken, View, What, explore, replay
from orchestrator.testing.exploring.model.retaining import Rule
from orchestrator.testing.exploring.walk.explorer import Rig
from outbox.replies import Outcome
from tests.support.orchestrator.trips import CHARGE, ROOM, SEAT, TICKET, Trip, trip

OF_RETENTION = Faults(removals=3, starts=1)
FIRST = replace(SEAT, on_reply=None)
ALL = trip(SEAT, CHARGE, TICKET)
BOTH_ENDS = {Status.COMPLETED, Status.COMPENSATED}


def removing(**faults: int) -> Faults:
    """With these faults, and all that retention does."""
    return replace(OF_RETENTION, **faults)


@pytest.mark.parametrize(
    ("saga", "faults"),
    [
        (delete_article, removing(duplicates=1, losses=1, crashes=1)),
        (ALL, removing(duplicates=2, late=1, cancels=1)),
        (ALL, removing(accepted=1, duplicates=1, late=1)),
        (trip(FIRST, replace(ROOM, after=())), removing(duplicates=1, late=1, cancels=1)),
        (trip(FIRST, CHARGE), removing(pendings=1, duplicates=1, losses=1)),
        (trip(FIRST, CHARGE), removing(later=1, cancels=1, crashes=1)),
    ],
    ids=["blog", "doubled", "accepted", "side by side", "pending", "for later"],
)
def test_whatever_comes_after_the_removal_of_a_run_each_promise_holds(
    saga: Saga[Any], faults: Faults
) -> None:
    assert explore(saga, faults=faults).check().ends == BOTH_ENDS


def test_a_run_that_a_person_ended_is_removed_while_its_commands_are_on_their_way() -> None:
    faults = removing(terminations=1, burials=1, resolutions=1, duplicates=1)
    found = explore(ALL, faults=faults).check()
    assert {Status.TERMINATED, Status.RESOLVED, Status.STUCK} < found.ends


def test_a_call_that_ends_after_the_removal_is_known_to_its_participant_alone() -> None:
    faults = removing(calls=1, hangs=1, late=1)
    explore(trip(FIRST, CHARGE), faults=faults).check()


def test_what_retention_removes_adds_few_worlds() -> None:
    without = explore(ALL, faults=Faults(duplicates=1, losses=1, late=1, cancels=1))
    found = explore(ALL, faults=removing(duplicates=1, losses=1, late=1, cancels=1))
    assert without.check().worlds < found.check().worlds < 2 * without.worlds
    assert found.ends == without.ends


# That mistakes with it are found


@pytest.mark.parametrize(
    ("rule", "promise", "problem", "last"),
    [
        (Rule.ENDED, "P4", "a run that had not ended was removed", What.REMOVED),
        (Rule.KEYS, "P2", "one idempotency key leads to two runs", What.SAME_KEY),
        (Rule.WRITES, "P2", "an answer has made the run anew", What.ANSWERED),
    ],
)
def test_a_retention_without_one_of_its_rules_is_found(
    rule: Rule, promise: str, problem: str, last: What
) -> None:
    faults = removing(duplicates=1)
    violation = explore(ALL, faults=faults, rig=Rig(without=rule)).violation
    assert violation is not None
    assert (violation.promise, violation.trace[-1].what) == (promise, last)
    assert violation.problem.startswith(problem)


# Its story


def never_charged(view: View) -> bool | str:
    return "charge" not in view.in_effect or "a customer paid"


def _played(*events: Event) -> list[str]:
    """The story of a run that is terminated at once, of these events and of a charge after them,
    which breaks a promise; empty where one of them cannot happen."""
    charged = Event(What.ARRIVES, "charge", answer=Outcome.DONE)
    trace = [Event(What.STARTS), Event(What.TERMINATE), *events, charged]
    try:
        replay(_charging(), {"trip": "t1"}, trace, invariants=[never_charged])
    except PromiseBroken as broken:
        violation = broken.violation
    else:
        return []
    assert violation.trace == tuple(trace)
    return violation.story.splitlines()[3:-1]


def _charging() -> Saga[Trip]:
    return trip(CHARGE, TICKET)


def test_a_run_its_id_and_its_key_go_one_after_the_other_and_starts_come_between() -> None:
    again, same_key = Event(What.AGAIN), Event(What.SAME_KEY)
    removed, forgotten = Event(What.REMOVED), Event(What.FORGOTTEN)
    story = _played(again, removed, again, forgotten, again, same_key, Event(What.UNKEYED), again)
    assert story == [
        "  3. the message that asked for the run comes again",
        "  4. retention removes the run, and remembers its id",
        "  5. the message that asked for the run comes again",
        "  6. retention forgets the id of the run, which is old by now",
        "  7. the message that asked for the run comes again",
        "  8. a caller asks with the idempotency key of the run again",
        "  9. retention removes the idempotency key of the run",
        "  10. the message that asked for the run comes again",
    ]


def test_a_run_with_an_old_id_goes_without_a_tombstone() -> None:
    forgotten = Event(What.FORGOTTEN)
    assert _played(forgotten) == [
        "  3. retention removes the run, whose id is too old to be remembered by itself"
    ]
    assert _played(forgotten, forgotten) == []


def test_a_key_outlives_its_run_and_a_run_is_removed_once() -> None:
    removed, unkeyed = Event(What.REMOVED), Event(What.UNKEYED)
    assert _played(removed, unkeyed)
    assert _played(unkeyed, removed) == []
    assert _played(removed, removed) == []
    assert _played(removed, unkeyed, Event(What.SAME_KEY)) == []
