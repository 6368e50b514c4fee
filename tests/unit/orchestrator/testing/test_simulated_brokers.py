"""Histories in which commands, and the news of ends, go through a broker."""

from __future__ import annotations

import pytest

from orchestrator.testing import simulate
from orchestrator.testing.brokers.witness import Witness
from orchestrator.testing.virtual.chances import OF_BROKERS, Fault
from outbox.replies import Outcome, Reply
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.held.holding import ToHold
from outbox.wire.envelope import Envelope, to_structured
from tests.support.outbox.envelopes import an_envelope

AT_READERS = {Fault.HANDLER_FAILS, Fault.POISON, Fault.LOCKED, Fault.SERVICE_CRASH, Fault.PARTITION}
OTHERS = {Fault.NODE_CRASH, Fault.NODE_PAUSE, Fault.COMMIT_LOST, Fault.CANCEL, Fault.REFUSED}
ANSWERS = {Fault.ANSWER_LOST, Fault.DUPLICATE, Fault.DELAY, Fault.PENDING, Fault.TERMINATE}

RARE = {Fault.SKIP, Fault.SPLIT, Fault.SERVICE_CRASH, Fault.PARTITION, Fault.ANSWER_LOST}
"""Those that need what few histories have, as a step that is stuck."""


@pytest.mark.parametrize(
    "others", [AT_READERS, OTHERS, ANSWERS], ids=["readers", "others", "answers"]
)
def test_every_promise_holds_where_brokers_are_on_the_way(others: set[Fault]) -> None:
    tried = simulate(seeds=range(150), faults=OF_BROKERS | others)
    tried.check()
    happened = {fault for fault in tried.faults if tried.faults[fault]}
    assert happened >= (OF_BROKERS | others) - RARE


# The witness


class Broken(list[tuple[str, str]]):
    """What a witness tells."""

    def __call__(self, promise: str, problem: str) -> None:
        self.append((promise, problem))


@pytest.fixture
def broken() -> Broken:
    return Broken()


def packet_of(message: Envelope, partition: int = 0) -> Packet:
    return Packet(partition, {}, to_structured(message), message.key)


def to_hold(message: Envelope, *, attempts: int) -> ToHold:
    return ToHold("comments", packet_of(message), message, "it failed", attempts)


def test_what_is_acknowledged_unanswered_is_lost(broken: Broken) -> None:
    witness, message = Witness(broken), an_envelope()
    kept = witness.kept(packet_of(message))
    witness.answered(message, Reply(Outcome.FAILED, code="failed", reason="no"))
    witness.forgotten([kept])
    assert [promise for promise, _ in broken] == ["P1"]


def test_an_answer_before_a_copy_came_says_nothing_of_that_copy(broken: Broken) -> None:
    witness, message = Witness(broken), an_envelope()
    first = witness.kept(packet_of(message))
    witness.answered(message, Reply(Outcome.DONE))
    witness.forgotten([first])
    assert broken == []
    witness.forgotten([witness.kept(packet_of(message))])
    assert [promise for promise, _ in broken] == ["P1"]


def test_what_is_held_is_not_lost_and_is_not_overtaken(broken: Broken) -> None:
    witness, message = Witness(broken), an_envelope()
    kept = witness.kept(packet_of(message))
    witness.set_aside(to_hold(message, attempts=1))
    witness.forgotten([kept])
    assert broken == []
    witness.read([message], witness.moment())
    assert [promise for promise, _ in broken] == ["P6"]


def test_nothing_waits_for_another_key(broken: Broken) -> None:
    Witness(broken).set_aside(to_hold(an_envelope(), attempts=0))
    assert [promise for promise, _ in broken] == ["P6"]


def test_a_key_has_one_partition(broken: Broken) -> None:
    witness = Witness(broken)
    witness.kept(packet_of(an_envelope(), 0))
    witness.kept(packet_of(an_envelope(), 1))
    assert [promise for promise, _ in broken] == ["P6"]


def test_a_failure_is_not_told(broken: Broken) -> None:
    Witness(broken).told(Reply(Outcome.FAILED, code="failed", reason="no"))
    assert [promise for promise, _ in broken] == ["answers"]
