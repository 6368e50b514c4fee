"""The saga of `examples/shop` without a database, a network or a clock: as users test theirs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.errors import IllegalSignal
from orchestrator.machine.instance import Status
from orchestrator.machine.machine import advance, start
from orchestrator.machine.signals import Cancel, Replied, Signal, TimerFired
from orchestrator.machine.transition import Transition
from outbox import Outcome, Reply
from tests.support.checkout import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "examples")
    from shop.saga import Placing, place_order

RUN = "0190a000-0000-7000-8000-000000000001"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RESERVED = Reply(Outcome.DONE, value={"total": 80_00})
DONE = Reply(Outcome.DONE)
REFUSED = Reply(Outcome.REFUSED, code="limit-exceeded", reason="it is too much")


def begin() -> Transition[Placing]:
    return start(place_order, RUN, Placing("order 7", card="1234"), NOON)


def hear(before: Transition[Placing], signal: Signal) -> Transition[Placing]:
    return advance(place_order, before.instance, signal, NOON)


def answer(before: Transition[Placing], reply: Reply) -> Transition[Placing]:
    """What follows when the only command of a transition is answered."""
    (command,) = before.commands
    return hear(before, Replied(command.id, reply))


def sent(transition: Transition[Placing]) -> list[tuple[str, Any]]:
    return [(command.type, json.loads(command.data)) for command in transition.commands]


def test_an_order_that_is_paid_is_reserved_charged_and_shipped() -> None:
    began = begin()
    assert sent(began) == [("stock.reserve.v1", {"order_id": "order 7"})]
    reserved = answer(began, RESERVED)
    charge = {"order_id": "order 7", "card": "1234", "amount": 80_00}
    assert sent(reserved) == [("payments.charge.v1", charge)]
    charged = answer(reserved, DONE)
    assert sent(charged) == [("stock.ship.v1", {"order_id": "order 7"})]
    assert answer(charged, DONE).instance.status is Status.COMPLETED


def test_a_refused_charge_releases_the_goods() -> None:
    reserved = answer(begin(), RESERVED)
    refused = answer(reserved, REFUSED)
    assert sent(refused) == [("stock.release.v1", {"order_id": "order 7"})]
    assert refused.commands[0].undoes == refused.instance.steps["reserve stock"].action_ids
    assert answer(refused, DONE).instance.status is Status.COMPENSATED


def test_goods_that_are_not_there_end_it_with_nothing_to_undo() -> None:
    sold_out = answer(begin(), REFUSED)
    assert sent(sold_out) == []
    assert sold_out.instance.status is Status.COMPENSATED


def test_a_reservation_without_an_answer_within_a_minute_is_taken_back() -> None:
    began = begin()
    (timer,) = began.timers
    assert timer.due == NOON + timedelta(minutes=1)
    overdue = hear(began, TimerFired(timer.kind, timer.command_id))
    assert sent(overdue) == [("stock.release.v1", {"order_id": "order 7"})]


def test_a_charge_without_an_answer_is_sent_again_and_nothing_is_taken_back() -> None:
    reserved = answer(begin(), RESERVED)
    (timer,) = reserved.timers
    overdue = hear(reserved, TimerFired(timer.kind, timer.command_id))
    assert [command.id for command in overdue.commands] == [reserved.commands[0].id]
    assert overdue.instance.status is Status.RUNNING


def test_once_the_card_may_be_charged_no_person_can_cancel() -> None:
    assert hear(begin(), Cancel("ada", "a mistake")).instance.status is Status.COMPENSATING
    with pytest.raises(IllegalSignal):
        hear(answer(begin(), RESERVED), Cancel("ada", "a mistake"))


def test_there_is_one_run_for_an_order_at_a_time() -> None:
    assert place_order.one_active
    assert place_order.accept(Placing("order 7", card="1234")) == "order 7"
