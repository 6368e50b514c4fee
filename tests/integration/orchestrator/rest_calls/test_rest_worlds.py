"""A saga with a plain HTTP service in every way that its run can go."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from orchestrator import Saga
from orchestrator.testing import (
    Faults,
    Run,
    SagaWorld,
    WayFailed,
    check_saga,
    explore,
    rest_participant,
    simulate,
)
from outbox.inbox.handlers import Context, Handlers
from tests.integration.orchestrator.rest_calls.conftest import (
    PROBE,
    Order,
    Ship,
    charge,
    refund,
    selling,
)
from tests.support.orchestrator.plain_service import PlainService, Trouble, says

shop = Handlers("shop")
_CALLS = "the call of"


@shop.on(Ship)
async def ship(_: AsyncSession, __: Ship, ___: Context) -> None:
    """It ships."""


def _check(saga: Saga[Order], payments: PlainService, only: str) -> int:
    """Check the ways whose words contain it; how many there were."""

    def begin() -> None:
        payments.charges.clear()
        payments.requests.clear()

    def one_charge_or_none(_: SagaWorld, run: Run) -> None:
        assert len(payments.charges) == (1 if run.status == "COMPLETED" else 0), run.status

    checked = check_saga(
        saga,
        Order("o-1", 500),
        participants={
            "shop": shop,
            "payments": rest_participant(saga, "payments", payments, address="rest+http://p/v1"),
        },
        schema=MetaData(),
        begin=begin,
        invariant=one_charge_or_none,
        only=only,
    )
    return len(checked.ways)


@pytest.mark.slow
def test_with_keys_and_a_probe_a_card_is_charged_once_or_not_at_all() -> None:
    assert _check(selling(), PlainService(), "") > 50


def test_without_keys_the_probe_alone_keeps_the_same_promise() -> None:
    grace = timedelta(seconds=60)
    action = partial(charge, keyed=False, probe=PROBE, grace=grace)
    saga = selling(action, partial(refund, grace=grace))
    assert _check(saga, PlainService(honours_keys=False), _CALLS) > 8


def test_a_service_that_forgets_its_keys_is_found() -> None:
    with pytest.raises(WayFailed, match="has its effect twice"):
        _check(selling(), PlainService(honours_keys=False), _CALLS)


def test_a_probe_that_overlooks_what_is_there_is_found() -> None:
    payments = PlainService()
    blind: list[Trouble] = [says(404)] * 1000
    payments.troubles["GET"] = blind
    with pytest.raises(WayFailed, match="cancels during the call"):
        _check(selling(), payments, "cancels during the call")


def test_without_a_probe_a_doubt_is_left_to_a_person() -> None:
    assert _check(selling(charge, partial(refund, probe=None)), PlainService(), _CALLS) > 8


@pytest.mark.parametrize(
    "faults", [Faults(), Faults(hangs=1), Faults(late=1, duplicates=1)], ids=repr
)
def test_in_every_order_of_events_the_promises_hold(faults: Faults) -> None:
    exploration = explore(selling(), faults=faults, at_most=40_000)
    assert exploration.violation is None, exploration.violation


def test_in_random_histories_the_promises_hold() -> None:
    simulate(selling(), seeds=range(40)).check()
