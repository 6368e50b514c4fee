"""What a consumer does with a packet, by the answer of its inbox."""

from __future__ import annotations

import pytest

from outbox.replies import Outcome, Reply
from outbox.transports.brokers.sorting import Lot, is_failure, lot_of
from tests.support.outbox.envelopes import AN_ID, an_envelope

TOLD = an_envelope(source="orchestrator", reply_to="orchestrator", correlation=AN_ID)
PLAIN = an_envelope(reply_to=None, correlation=None)
STRAY = an_envelope(source="orchestrator", reply_to="another", correlation=AN_ID)
OF_NO_RUN = an_envelope(source="orchestrator", reply_to="orchestrator", correlation=None)


@pytest.mark.parametrize(
    ("outcome", "of_a_saga", "of_no_saga"),
    [
        (Outcome.DONE, Lot.DONE, Lot.DONE),
        (Outcome.REFUSED, Lot.DONE, Lot.DONE),
        (Outcome.ALREADY_UNDONE, Lot.DONE, Lot.DONE),
        (Outcome.NOTHING_TO_UNDO, Lot.DONE, Lot.DONE),
        (Outcome.EXPIRED, Lot.DONE, Lot.DONE),
        (Outcome.LOCKED, Lot.DONE, Lot.HELD),
        (Outcome.ONGOING, Lot.DONE, Lot.HELD),
        (Outcome.TOO_BUSY, Lot.AGAIN, Lot.AGAIN),
        (Outcome.NOT_ATTEMPTED, Lot.AGAIN, Lot.AGAIN),
        (Outcome.FAILED, Lot.HELD, Lot.HELD),
        (Outcome.REJECTED, Lot.DONE, Lot.DEAD),
        (Outcome.TOO_OLD, Lot.DONE, Lot.DEAD),
        (Outcome.UNKNOWN, Lot.DONE, Lot.DEAD),
    ],
)
def test_the_lot_of_each_answer(outcome: Outcome, of_a_saga: Lot, of_no_saga: Lot) -> None:
    reply = Reply(outcome, code="because")
    assert lot_of(TOLD, reply) is of_a_saga
    for unasked in (PLAIN, STRAY, OF_NO_RUN):
        # Where no sender is told by a message, nothing is taken away in silence.
        assert lot_of(unasked, reply) is of_no_saga


def test_every_outcome_has_a_lot() -> None:
    assert {lot_of(PLAIN, Reply(it, code="because")) for it in Outcome} == {*Lot}


def test_an_unknown_type_is_held_until_a_release_knows_it() -> None:
    assert lot_of(TOLD, Reply(Outcome.REJECTED, code="unknown-type")) is Lot.HELD


def test_what_waits_for_something_else_uses_no_attempt() -> None:
    assert is_failure(Reply(Outcome.FAILED, code="failed"))
    assert not is_failure(Reply(Outcome.LOCKED, code="locked"))
    assert not is_failure(Reply(Outcome.ONGOING, code="ongoing"))
