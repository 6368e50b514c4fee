"""Runs with a step at a plain HTTP service, over the real engine and inbox."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import httpx

from orchestrator import RestCall, rest
from outbox.clock import SystemClock
from outbox.inbox.outside.calling import PATIENCE
from outbox.replies import Outcome
from tests.integration.orchestrator.rest_calls.conftest import (
    Charged,
    Open,
    Order,
    Shop,
    charge,
    refund,
    selling,
)
from tests.support.orchestrator.plain_service import (
    PlainService,
    acts_without_answer,
    does_nothing_and_is_gone,
    says,
)
from tests.support.processes.waiting import until

HALF, NONE = timedelta(seconds=0.5), timedelta()


async def test_a_rest_step_is_done_and_its_json_is_learned(open_shop: Open) -> None:
    async with open_shop([selling()]) as shop:
        run = await shop.until(await shop.start(), "COMPLETED")
        assert run["state"]["charge"] == "ch_1"
        (request,) = shop.payments.requests
        assert request.url == "https://pay.internal/v1/charges"
        assert request.content == b'{"cents":500}'
        (key,) = shop.payments.charges
        assert request.headers["idempotency-key"] == key
        figures = (await shop.service.http.get("/metrics")).text
        assert 'sagabox_outside_call_seconds_count{result="done"} 1.0' in figures


async def test_a_rest_step_is_refused_in_the_words_of_the_service(open_shop: Open) -> None:
    payments = PlainService()
    payments.troubles["POST"] = [says(409, {"code": "no-money", "detail": "the card is empty"})]
    async with open_shop([selling()], payments) as shop:
        run = await shop.until(await shop.start(), "COMPENSATED")
        assert "no-money: the card is empty" in str(run)
        assert payments.asked("DELETE") == []


async def test_a_rest_step_is_undone_by_what_its_service_answered(open_shop: Open) -> None:
    async with open_shop([selling()], ships=[Outcome.REFUSED]) as shop:
        await shop.until(await shop.start(), "COMPENSATED")
        assert shop.payments.charges == {}
        assert shop.payments.asked("DELETE") == ["/v1/charges/ch_1"]
        assert shop.payments.asked("GET") == [], "what is known is not asked for"


async def test_a_lost_answer_of_a_keyed_call_is_asked_for_again_under_its_key(
    open_shop: Open,
) -> None:
    payments = PlainService()
    payments.troubles["POST"] = [acts_without_answer, says(503, retry_after="1")]
    async with open_shop([selling()], payments) as shop:
        run = await shop.until(await shop.start(), "COMPLETED")
        assert run["state"]["charge"] == "ch_1"
        assert len(payments.charges) == 1
        assert len({it.headers["idempotency-key"] for it in payments.requests}) == 1


async def test_an_action_in_doubt_is_undone_by_what_its_probe_finds(open_shop: Open) -> None:
    payments = PlainService(honours_keys=False)
    payments.troubles["POST"] = [acts_without_answer]
    async with open_shop([selling(partial(charge, keyed=False))], payments) as shop:
        await shop.until(await shop.start(), "COMPENSATED")
        assert payments.charges == {}
        assert payments.asked("DELETE") == ["/v1/charges/ch_1"]
        assert len(payments.asked("POST")) == 1, "without a key it is not sent again"


async def test_an_action_in_doubt_that_its_probe_does_not_find_needs_no_undo(
    open_shop: Open,
) -> None:
    payments, times = PlainService(honours_keys=False), list[float]()

    async def is_gone(service: PlainService, request: httpx.Request) -> httpx.Response:
        times.append(SystemClock().monotonic())
        return await does_nothing_and_is_gone(service, request)

    async def finds_nothing(service: PlainService, request: httpx.Request) -> httpx.Response:
        times.append(SystemClock().monotonic())
        return service.answer(request)

    payments.troubles = {"POST": [is_gone], "GET": [finds_nothing] * 10}
    async with open_shop([selling(partial(charge, keyed=False))], payments) as shop:
        await shop.until(await shop.start(), "COMPENSATED")
        assert payments.asked("DELETE") == []
    assert times[-1] - times[0] >= HALF.total_seconds(), "one that is too early does not count"


async def test_an_action_in_doubt_without_a_probe_is_stuck(open_shop: Open) -> None:
    payments = PlainService(honours_keys=False)
    payments.troubles["POST"] = [acts_without_answer]
    saga = selling(partial(charge, keyed=False), partial(refund, probe=None))
    async with open_shop([saga], payments) as shop:
        run = await shop.until(await shop.start(), "STUCK")
        assert "has no probe" in str(run)
        assert payments.asked("DELETE") == []


async def test_a_call_that_outlasts_its_delivery_tells_its_run_at_once(open_shop: Open) -> None:
    payments = PlainService()

    async def slow(service: PlainService, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(PATIENCE + 0.3)  # a delivery waits for so long in real time
        return service.answer(request)

    payments.troubles["POST"] = [slow]
    long = timedelta(minutes=4)
    saga = selling(partial(charge, timeout=long), partial(refund, timeout=long))
    async with open_shop([saga], payments) as shop:
        # The run itself asks again only after the four minutes.
        run = await shop.until(await shop.start(), "COMPLETED")
        assert run["state"]["charge"] == "ch_1"
        assert len(payments.requests) == 1


async def test_an_answer_of_another_shape_is_left_to_a_person(open_shop: Open) -> None:
    payments = PlainService()
    payments.troubles["POST"] = [says(201, {"number": 7})]
    async with open_shop([selling()], payments) as shop:
        run = await shop.until(await shop.start(), "STUCK")
        assert "its answer could not be taken in" in str(run)


async def test_where_an_end_is_told_a_status_means_what_the_action_says(open_shop: Open) -> None:
    payments = PlainService()
    payments.troubles["POST"] = [says(202, location="/v1/charges/by-key/job", retry_after="0")]
    payments.troubles["GET"] = [says(409) for _ in range(100)]
    action = partial(charge, answers={409: "in-doubt"})
    saga = selling(action, partial(refund, probe=None))
    async with open_shop([saga], payments) as shop:
        run = await cancelled_once_its_end_is_asked_for(shop)
        assert run["status"] == "STUCK", "the service has not said that it was refused"


async def test_a_refusal_where_an_end_is_told_is_none_of_a_request_before_it(
    open_shop: Open,
) -> None:
    payments = PlainService()
    accepts = says(202, location="/v1/charges/by-key/job", retry_after="0")
    payments.troubles["PUT"] = [does_nothing_and_is_gone, accepts]
    payments.troubles["GET"] = [says(409) for _ in range(100)]

    def put(it: Order) -> RestCall[Charged]:
        return rest("payments", "PUT /charges/{key}", reply=Charged, timeout=HALF, grace=NONE)

    saga = selling(put, partial(refund, probe=None))
    async with open_shop([saga], payments) as shop:
        run = await cancelled_once_its_end_is_asked_for(shop)
        assert run["status"] == "STUCK", "the first request may have had its effect"
        assert len(payments.asked("PUT")) == 2


async def cancelled_once_its_end_is_asked_for(shop: Shop) -> dict[str, Any]:
    """A run that is cancelled while the service works on its charge, once that is undone or not."""
    id = await shop.start()
    await until(lambda: shop.payments.asked("GET"), what="the service is asked how it ends")
    cancel = {"reason": "the customer does not want it"}
    answer = await shop.service.http.post(f"/sagas/{id}/cancel", json=cancel)
    assert answer.is_success, answer.text
    return await shop.until(id, "STUCK", "COMPENSATED")
