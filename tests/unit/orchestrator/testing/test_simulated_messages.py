"""Histories in which commands are only accepted, and the answers come as messages."""

from __future__ import annotations

from orchestrator.testing import simulate
from orchestrator.testing.virtual.chances import Fault


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
