"""REST calls whose orchestrator ends in the middle, and undos that come in the middle of one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import httpx
import pytest
from sqlalchemy import MetaData

from orchestrator import Secret
from tests.integration.orchestrator.rest_calls.conftest import Open, charge, refund, selling
from tests.support.orchestrator.plain_service import PlainService, says
from tests.support.processes.waiting import until


async def test_where_an_end_is_told_is_asked_after_a_restart(open_shop: Open) -> None:
    payments = PlainService()
    payments.troubles["POST"] = [says(202, location="/v1/charges/by-key/job", retry_after="0")]
    payments.troubles["GET"] = [says(202, retry_after="0")]

    async def asked() -> bool:
        return bool(payments.asked("GET"))

    async with open_shop([selling()], payments) as shop:
        run = await shop.start()
        await until(asked, what="the service is asked how it ends")
    payments.troubles["GET"].clear()
    payments.charges["job"] = {"id": "ch_7"}
    async with open_shop([selling()], payments) as shop:
        assert (await shop.until(run, "COMPLETED"))["state"]["charge"] == "ch_7"
    assert len(payments.asked("POST")) == 1


async def test_an_undo_waits_until_the_time_of_a_live_request_is_over(open_shop: Open) -> None:
    payments, is_live = PlainService(), asyncio.Event()
    told: list[str] = []

    async def hangs(_: PlainService, __: httpx.Request) -> httpx.Response:
        is_live.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("the request is over")
        raise AssertionError("nothing sets it")

    async def looks(service: PlainService, request: httpx.Request) -> httpx.Response:
        told.append("its effect is looked for")
        return service.answer(request)

    # A second request hangs, too, where the first one's time is over before the run is cancelled.
    payments.troubles = {"POST": [hangs] * 100, "GET": [looks]}
    slow = timedelta(seconds=2)
    saga = selling(partial(charge, timeout=slow), partial(refund, timeout=slow))
    async with open_shop([saga], payments) as shop:
        run = await shop.start()
        await is_live.wait()
        cancel = {"reason": "the customer does not want it"}
        answer = await shop.service.http.post(f"/sagas/{run}/cancel", json=cancel)
        assert answer.is_success, answer.text
        await shop.until(run, "COMPENSATED")
    *before, last = told
    assert set(before) == {"the request is over"}
    assert last == "its effect is looked for"


async def test_a_secret_is_in_no_table(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAY_TOKEN", "s3cr3t")
    headers = {"Authorization": Secret(env="PAY_TOKEN", form="Bearer {}")}
    payments = PlainService()
    payments.troubles["POST"] = [says(500, "s3cr3t is not known here")]
    async with open_shop([selling(partial(charge, headers=headers))], payments) as shop:
        await shop.until(await shop.start(), "COMPLETED")
        assert payments.requests[-1].headers["authorization"] == "Bearer s3cr3t"
        async with shop.service.chassis.database.reading.connect() as connection:
            metadata = MetaData()
            await connection.run_sync(metadata.reflect)
            kept = [
                str(list(await connection.execute(it.select()))) for it in metadata.sorted_tables
            ]
        assert len(kept) > 10
        assert "s3cr3t" not in "".join(kept)
