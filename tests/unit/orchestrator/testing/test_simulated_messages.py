"""Histories in which commands are only accepted, and the answers come as messages."""

from __future__ import annotations

import pytest

from orchestrator.engine.commits import group_commit
from orchestrator.testing import SimulationFailed, simulate
from orchestrator.testing.virtual.chances import Fault
from tests.support.mutants.mutation import mutated_machine
from tests.support.orchestrator.trips import CHARGE, TICKET, trip


def test_every_promise_holds_where_answers_come_as_messages_or_are_lost_on_their_way() -> None:
    ways = {Fault.ACCEPTED, Fault.ANSWER_LOST, Fault.DUPLICATE, Fault.DELAY, Fault.PARTITION}
    tried = simulate(seeds=range(150), faults=ways)
    tried.check()
    assert all(tried.faults[fault] for fault in ways)


def test_every_promise_holds_where_participants_answer_all_sorts_of_things_as_messages() -> None:
    said = {Fault.LOCKED, Fault.ONGOING, Fault.REFUSED, Fault.HANDLER_FAILS, Fault.SERVICE_CRASH}
    tried = simulate(seeds=range(150), faults={Fault.ACCEPTED, *said})
    tried.check()
    assert all(tried.faults[fault] for fault in (Fault.ACCEPTED, *said))


def test_an_accepted_command_that_was_lost_and_is_not_sent_again_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = "        case Wait.REPEAT | Wait.ACCEPTED:\n"
    wrong = "        case Wait.ACCEPTED:\n            pass\n        case Wait.REPEAT:\n"
    monkeypatch.setattr(group_commit, "advance", mutated_machine(right, wrong).advance)
    ways = {Fault.ACCEPTED, Fault.REQUEST_LOST}
    tried = simulate(trip(CHARGE, TICKET), seeds=range(300), faults=ways)
    with pytest.raises(SimulationFailed, match="an hour after everything healed, book-trip is RUN"):
        tried.check()
