"""An orchestrator within the application of a service: one process, no network, no keys."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.orchestrator.embedded import REFUSED, TRANSFER, Bank, Transfer, bank
from tests.support.processes.waiting import until


async def test_a_saga_runs_to_its_end_within_one_process(one: Bank) -> None:
    async with one.running():
        run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", "one"))
        state = await run.wait(20)
    assert state.status == "COMPLETED"
    assert await one.entries() == ["one", "one, noted"]


async def test_a_refusal_is_undone_within_one_process(one: Bank) -> None:
    async with one.running():
        run = await one.orchestrator.client.start(TRANSFER, Transfer("ada", REFUSED))
        state = await run.wait(20)
    assert state.status == "COMPENSATED"
    assert await one.entries() == []


async def test_a_start_by_a_message_runs_and_its_end_is_told(one: Bank) -> None:
    async with one.running():
        run = await one.ask("ada", "one")
        await until(lambda: run in one.ends.told, what="the bank is told of the end")
    assert one.ends.told[run] == "COMPLETED"
    assert await one.entries() == ["one", "one, noted"]


@pytest.mark.databases("sqlite")
async def test_the_api_is_below_the_prefix_and_trusts_no_caller_of_this_machine_whatever_is_set(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAGABOX_TRUST_LOOPBACK", "1")
    one = bank(engine)
    transport = httpx.ASGITransport(one.app, client=("127.0.0.1", 1))
    async with (
        one.running(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        assert (await http.get("/orchestrator/livez")).status_code == 200
        assert (await http.get("/orchestrator/readyz")).status_code == 200
        refused = await http.get("/orchestrator/sagas")
        assert refused.json()["code"] == "credentials-missing"
        command = "SAGABOX_TABLE_PREFIX=orchestrator_ sagabox token create NAME --role "
        assert command in refused.json()["next_step"]
        assert command in caplog.text
        assert (await http.get("/sagas")).status_code == 404
