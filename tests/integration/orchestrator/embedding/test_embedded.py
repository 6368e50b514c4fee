"""An orchestrator within the application of a service: one process, no network, no keys."""

from __future__ import annotations

import os

import httpx
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.access import tokens
from orchestrator.embedding.attach import TABLES
from orchestrator.tables import saga_tables
from outbox.chassis.access.routes import Role
from outbox.tables import DEFAULT_TABLES
from tests.support.blog.blog import START, new_id
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
async def test_the_api_is_below_the_prefix_and_trusts_no_caller_of_this_machine_by_any_setting(
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


@pytest.mark.parametrize("as_new", [False, True])
async def test_its_dead_letters_are_its_own_and_not_those_of_the_service_beside_it(
    one: Bank, as_new: bool
) -> None:
    letter = {
        "destination": "bank",
        "bucket": 3,
        "aggregatetype": "orchestrator",
        "aggregateid": "k",
        "type": "orchestrator.saga-ended.v1",
        "payload": "{}",
        "headers": "{}",
        "reason": "given up",
        "attempts": 9,
        "occurred_at": START,
        "died_at": START,
    }
    own, other = new_id(), new_id()
    async with one.service.engine.begin() as connection:
        await connection.execute(insert(TABLES.outbox_dead).values(letter | {"id": own}))
        await connection.execute(insert(DEFAULT_TABLES.outbox_dead).values(letter | {"id": other}))
        token = await tokens.create(
            connection,
            saga_tables(TABLES),
            "ann",
            Role.ADMIN,
            now=START,
            expires_at=None,
            entropy=os.urandom,
        )
    async with (
        one.running(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(one.app),
            base_url="http://127.0.0.1/orchestrator",
            headers={"authorization": f"Bearer {token}"},
        ) as http,
    ):
        listed = await http.get("/dead-letters")
        assert [it["id"] for it in listed.json()["items"]] == [own]
        body = {"ids": [own], "as_new": as_new}
        answer = await http.post("/dead-letters/redrive", json=body)
        assert answer.status_code == 200, answer.text
        body["ids"] = [other]
        assert (await http.post("/dead-letters/redrive", json=body)).status_code == 404
