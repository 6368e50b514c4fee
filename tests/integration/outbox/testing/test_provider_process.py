"""The fake provider as a process: what outlives its death, and its webhooks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.cli.processes.child import Child, Spec
from tests.support.checkout import ROOT
from tests.support.http.servers import Exchange, scripted
from tests.support.processes import zygote
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

CHARGE = {"account": "ada", "amount": 300, "reference": "trip"}


class Provider:
    """One provider, which can be started again."""

    def __init__(self, folder: Path, client: httpx.AsyncClient) -> None:
        self.client = client
        port = free_port()
        self._spec = Spec(
            name="provider",
            command=(
                *(sys.executable, "-m", "outbox.testing.provider", "--port", str(port)),
                *("--database", str(folder / "provider.sqlite")),
            ),
            environment={**os.environ, "PYTHONPATH": str(ROOT)},
            url=f"http://127.0.0.1:{port}",
            log=folder / "provider.log",
        )
        self.child: Child | None = None

    async def start(self) -> None:
        self.child = await zygote.start(self._spec)
        guardian().entrust_process(self.child.pid)
        await self.child.ready()

    async def stop(self) -> None:
        assert self.child is not None
        await self.child.stop()
        guardian().release_process(self.child.pid)

    async def ask(self, method: str, path: str, body: object = None, key: str = "k") -> Any:
        answer = await self.client.request(
            method, self._spec.url + path, json=body, headers={"Idempotency-Key": key}
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def charged(self) -> list[tuple[str, int]]:
        """The key of each charge, and how often it was asked for."""
        told = await self.ask("GET", "/ledger")
        return [(it["key"], it["asked"]) for it in told["charges"]]


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        made = Provider(tmp_path, client)
        await made.start()
        try:
            await made.ask("PUT", "/accounts/ada", {"limit": 1_000})
            yield made
        finally:
            await made.stop()


@pytest.mark.parametrize(("fault", "charged"), [("die_before", []), ("die_after", [("k", 1)])])
async def test_a_provider_that_dies_knows_afterwards_what_it_charged(
    provider: Provider, fault: str, charged: list[tuple[str, int]]
) -> None:
    await provider.ask("PUT", "/modes/charges", {fault: 1})
    with pytest.raises(httpx.TransportError):
        await provider.ask("POST", "/charges", CHARGE)
    assert provider.child is not None
    await provider.child.wait()
    assert provider.child.ending == "SIGKILL"
    await provider.start()
    assert await provider.charged() == charged
    await provider.ask("POST", "/charges", CHARGE)
    assert await provider.charged() == [("k", 2)]


async def test_a_cut_connection_gives_no_answer_and_the_process_goes_on(
    provider: Provider,
) -> None:
    await provider.ask("PUT", "/modes/charges", {"cut_after": 1})
    with pytest.raises(httpx.TransportError):
        await provider.ask("POST", "/charges", CHARGE)
    assert await provider.charged() == [("k", 1)]


async def test_a_slow_charge_comes_although_its_caller_has_gone(provider: Provider) -> None:
    await provider.ask("PUT", "/modes/charges", {"slow": 3})
    asking = asyncio.create_task(provider.ask("POST", "/charges", CHARGE))

    async def asked() -> bool:
        return bool((await provider.ask("GET", "/ledger"))["asked"])

    await until(asked)
    assert await provider.charged() == []
    asking.cancel()

    async def charged() -> bool:
        return bool(await provider.charged())

    await until(charged)


async def test_webhooks_come_several_times_backwards_and_again_until_they_are_taken(
    provider: Provider,
) -> None:
    seen: list[tuple[int, str]] = []

    async def refuse_the_first(exchange: Exchange) -> None:
        news = json.loads(exchange.request.body)
        seen.append((news["number"], news["status"]))
        await exchange.answer(500 if len(seen) == 1 else 204)

    await provider.ask("PUT", "/modes/orders", {"webhook_times": 2, "webhook_backwards": True})
    async with scripted(refuse_the_first) as server:
        order = {"reference": "trip", "item": "seat", "webhook": server.address}
        await provider.ask("POST", "/orders", order)
        await until(lambda: len(seen) == 5)
    assert seen == [
        (2, "confirmed"),  # refused, and so the last one, too
        (1, "received"),
        (2, "confirmed"),
        (1, "received"),
        (2, "confirmed"),
    ]


async def test_an_order_that_is_rejected_says_so_later(provider: Provider) -> None:
    seen: list[str] = []

    async def take(exchange: Exchange) -> None:
        seen.append(json.loads(exchange.request.body)["status"])
        await exchange.answer(204)

    await provider.ask("PUT", "/modes/orders", {"reject": 1})
    async with scripted(take) as server:
        for key in ("a", "b"):
            order = {"reference": "trip", "item": "seat", "webhook": server.address}
            assert (await provider.ask("POST", "/orders", order, key))["status"] == "received"
        await until(lambda: len(seen) == 4)
    assert seen == ["received", "rejected", "received", "confirmed"]
