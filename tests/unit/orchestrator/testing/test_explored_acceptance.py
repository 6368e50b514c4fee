"""Explored runs whose commands may be only accepted, and answered by messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.definition.saga import Saga
from orchestrator.machine.instance import Status, StepStatus
from orchestrator.sagas.delete_article import delete_article
from orchestrator.testing import Crash, Event, Faults, PromiseBroken, View, What, explore, replay
from orchestrator.testing.exploring.walk.explorer import Rig
from outbox.replies import Outcome
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trip_rules import never_charged_without_a_ticket
from tests.support.orchestrator.trips import BOOKING, CHARGE, SEAT, TICKET, Trip, trip

DONE = Outcome.DONE


@pytest.mark.parametrize("saga", [BOOKING, delete_article], ids=str)
@pytest.mark.parametrize(
    "faults",
    [
        Faults(accepted=2, losses=1),
        Faults(accepted=1, crashes=1, duplicates=1),
        Faults(accepted=1, late=1, cancels=1),
        Faults(accepted=1, burials=1, retries=1),
    ],
    ids=["lost", "crashed and doubled", "late and cancelled", "given up"],
)
def test_with_every_fate_of_an_accepted_command_each_promise_holds(
    saga: Saga[object], faults: Faults
) -> None:
    found = explore(saga, faults=faults).check()
    assert {Status.COMPLETED, Status.COMPENSATED} <= found.ends


def test_acceptance_alone_is_one_more_fault_that_may_happen_to_each_command() -> None:
    faults = Faults(refusals=1, locks=1, ongoing=1)
    without, accepting = (
        explore(trip(SEAT, TICKET), faults=it) for it in (faults, replace(faults, accepted=1))
    )
    assert accepting.check().ends == without.check().ends
    assert accepting.covered == without.covered
    assert accepting.worlds > without.worlds


# That mistakes with it are found


@pytest.mark.parametrize(
    ("right", "wrong", "saga", "faults", "promise"),
    [
        (
            "        case Wait.REPEAT | Wait.ACCEPTED:\n",
            "        case Wait.ACCEPTED:\n            pass\n        case Wait.REPEAT:\n",
            trip(TICKET),
            Faults(accepted=1, losses=1),
            "end",
        ),
        (
            "        builder.put_awaited(name, *asked_again(builder.awaited(name)))\n",
            "        builder.settle(name, StepStatus.DONE)\n",
            trip(TICKET),
            Faults(accepted=1),
            "P4",
        ),
        (
            "    if signal.source != participant:",
            "    assert signal.source is None\n    if signal.source != participant:",
            trip(TICKET),
            Faults(accepted=1),
            "total",
        ),
        (
            "        _given_up(builder, command_id, words, _by_consumer(signal.source, reply))\n"
            "        return\n",
            "        builder.withdraw(command_id)\n"
            "        name = builder.instance.step_of(command_id)\n"
            "        builder.settle(name, StepStatus.REFUSED)\n"
            "        return\n",
            trip(replace(SEAT, on_reply=None), CHARGE),
            Faults(accepted=1, burials=1),
            "P4",
        ),
    ],
    ids=["not repeated", "taken for done", "no answer by a message", "no burial by a message"],
)
def test_a_machine_that_takes_acceptance_wrongly_is_found(
    right: str, wrong: str, saga: Saga[Trip], faults: Faults, promise: str
) -> None:
    rig = Rig(machine=mutated_machine(right, wrong))
    assert explore(saga, faults=replace(faults, accepted=0), rig=rig).violation is None
    violation = explore(saga, faults=faults, rig=rig).violation
    assert violation is not None
    assert violation.promise == promise
    assert What.ACCEPTED in [event.what for event in violation.trace]


# Its story


def _accepted(step: str, crash: Crash | None = None) -> Event:
    return Event(What.ACCEPTED, step, crash=crash)


def _arrives(step: str, answer: Outcome = DONE, *, accepted: bool = False) -> Event:
    return Event(What.ARRIVES, step, answer=answer, accepted=accepted)


def _answered(step: str, crash: Crash | None = None, *, accepted: bool = False) -> Event:
    return Event(What.ANSWERED, step, answer=DONE, crash=crash, accepted=accepted)


def _played(*events: Event) -> list[str]:
    """The story of these events and of a charge after them, which breaks a promise; empty where
    one of them cannot happen."""
    trace = [Event(What.STARTS), *events, _arrives("charge")]
    saga = trip(SEAT, CHARGE, TICKET)
    try:
        replay(saga, {"trip": "t1"}, trace, invariants=[never_charged_without_a_ticket])
    except PromiseBroken as broken:
        violation = broken.violation
    else:
        return []
    assert violation.trace == tuple(trace)
    return violation.story.splitlines()[2:]


def test_an_accepted_command_arrives_later_and_its_answer_is_a_message() -> None:
    assert _played(
        _accepted("reserve seat"),
        _arrives("reserve seat", accepted=True),
        _answered("reserve seat", accepted=True),
    )[:3] == [
        "  2. 'reserve seat' is accepted, to be answered by a message",
        "  3. 'reserve seat', which was accepted, arrives and takes effect",
        "  4. the answer to 'reserve seat' arrives as a message: done; 'charge' is sent",
    ]


def test_one_that_is_lost_after_that_is_asked_for_again() -> None:
    assert _played(
        _accepted("reserve seat"),
        Event(What.LOST, "reserve seat", accepted=True),
        Event(What.REPEAT, "reserve seat"),
        _arrives("reserve seat"),
        _answered("reserve seat"),
    )[1:3] == [
        "  3. 'reserve seat', which was accepted, is lost on its way",
        "  4. it is time to try 'reserve seat' again; 'reserve seat' is sent",
    ]


def test_the_copy_that_was_accepted_and_the_one_that_was_sent_again_are_told_apart() -> None:
    assert _played(
        _accepted("reserve seat"),
        Event(What.REPEAT, "reserve seat"),
        _arrives("reserve seat"),
        _arrives("reserve seat", accepted=True),
        _answered("reserve seat", accepted=True),
    )


def test_what_was_accepted_is_not_sent_again_by_a_crash() -> None:
    came = [_accepted("reserve seat"), _arrives("reserve seat", accepted=True)]
    answered = _answered("reserve seat", accepted=True)
    assert _played(*came, answered)
    assert not _played(*came, Event(What.CRASH), answered)


def test_an_acceptance_that_is_forgotten_in_a_crash_leaves_both_copies() -> None:
    story = _played(
        _accepted("reserve seat", Crash.BEFORE_COMMIT),
        _arrives("reserve seat"),
        _arrives("reserve seat", accepted=True),
        _answered("reserve seat"),
    )
    crash = "the orchestrator crashes before it has stored that; at recovery 'reserve seat' is sent"
    assert story[0] == f"  2. 'reserve seat' is accepted, to be answered by a message; {crash}"


def test_an_answer_that_is_a_message_outlives_a_crash_and_its_command_is_not_sent_again() -> None:
    came = [_accepted("reserve seat"), _arrives("reserve seat", accepted=True)]
    answered = _answered("reserve seat", accepted=True)
    forgotten = replace(answered, crash=Crash.BEFORE_COMMIT)
    again = [_arrives("reserve seat"), _answered("reserve seat")]
    assert _played(*came, answered)
    assert not _played(*came, forgotten, *again)


def test_a_consumer_that_gives_up_tells_it_by_a_message() -> None:
    def is_never_stuck(view: View) -> bool:
        return view.steps["send ticket"] is not StepStatus.STUCK

    faults = Faults(accepted=1, burials=1)
    trace = [
        Event(What.STARTS),
        _accepted("send ticket"),
        Event(What.BURIED, "send ticket", accepted=True),
    ]
    assert explore(trip(TICKET), faults=faults).check().ends == {Status.COMPLETED, Status.STUCK}
    with pytest.raises(PromiseBroken) as caught:
        replay(trip(TICKET), {"trip": "t1"}, trace, invariants=[is_never_stuck])
    assert caught.value.violation.story.splitlines()[3] == (
        "  3. 'send ticket', which was accepted, becomes a dead letter; 'send ticket' is STUCK"
    )
