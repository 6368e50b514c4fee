"""Histories in which handlers answer later, or the outside is called."""

from __future__ import annotations

import pytest

from orchestrator.engine.commits import group_commit
from orchestrator.testing import SimulationFailed, simulate
from orchestrator.testing.virtual.chances import Fault
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trips import CHARGE, TICKET, trip

WAYS = {Fault.ANSWER_LOST, Fault.DUPLICATE, Fault.DELAY, Fault.PARTITION, Fault.NODE_CRASH}
SAID = {Fault.REFUSED, Fault.REFUSED_LATE, Fault.SERVICE_CRASH, Fault.CANCEL, Fault.TERMINATE}


@pytest.mark.parametrize("others", [WAYS, SAID], ids=["ways", "said"])
def test_every_promise_holds_where_handlers_answer_later(others: set[Fault]) -> None:
    tried = simulate(seeds=range(200), faults={Fault.PENDING, *others})
    tried.check()
    assert all(tried.faults[fault] for fault in (Fault.PENDING, *others))


@pytest.mark.parametrize("others", [WAYS, SAID], ids=["ways", "said"])
def test_every_promise_holds_where_the_outside_is_called(others: set[Fault]) -> None:
    calls = {Fault.CALL, Fault.HANG, Fault.PENDING}
    tried = simulate(seeds=range(300), faults=calls | others)
    tried.check()
    assert all(tried.faults[fault] for fault in calls | others)


def test_a_pending_command_whose_answer_was_lost_and_is_not_asked_for_again_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = "        case Wait.REPEAT | Wait.ACCEPTED:\n"
    wrong = "        case Wait.ACCEPTED:\n            pass\n        case Wait.REPEAT:\n"
    monkeypatch.setattr(group_commit, "advance", mutated_machine(right, wrong).advance)
    tried = simulate(
        trip(CHARGE, TICKET), seeds=range(450, 650), faults={Fault.PENDING, Fault.ANSWER_LOST}
    )
    with pytest.raises(SimulationFailed, match="an hour after everything healed, book-trip is RUN"):
        tried.check()
