"""The fake provider within this process: what it does, and what it does wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbox.testing import FakeClock
from outbox.testing.provider import Modes, provider

CHARGE = {"account": "ada", "amount": 300, "reference": "trip"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def client(tmp_path: Path, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(provider(tmp_path / "provider.sqlite", clock))
    async with httpx.AsyncClient(transport=transport, base_url="http://provider") as made:
        assert (await made.put("/accounts/ada", json={"limit": 1_000})).status_code == 204
        yield made


async def ask(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], key: str = "k"
) -> tuple[int, Any]:
    """The status, and the code or the id."""
    answer = await client.post(f"/{kind}", json=body, headers={"Idempotency-Key": key})
    told = answer.json()
    return answer.status_code, told.get("code") or told.get("id") or told


async def let(client: httpx.AsyncClient, kind: str, **modes: object) -> None:
    assert (await client.put(f"/modes/{kind}", json=modes)).status_code == 200


async def charges(client: httpx.AsyncClient) -> list[tuple[str, int, int]]:
    """The key of each, how often it was asked for, and its refunds."""
    told = (await client.get("/ledger")).json()["charges"]
    return [(it["key"], it["asked"], len(it["refunds"])) for it in told]


async def test_a_key_that_was_seen_gets_its_first_answer_and_no_second_charge(
    client: httpx.AsyncClient,
) -> None:
    assert await ask(client, "charges", CHARGE) == (201, "charge-1")
    assert await ask(client, "charges", CHARGE) == (201, "charge-1")
    assert await charges(client) == [("k", 2, 0)]


async def test_a_key_that_was_seen_with_another_body_is_an_error(
    client: httpx.AsyncClient,
) -> None:
    await ask(client, "charges", CHARGE)
    assert await ask(client, "charges", {**CHARGE, "amount": 1}) == (422, "other-request")


async def test_a_provider_that_keeps_no_keys_charges_each_time(client: httpx.AsyncClient) -> None:
    await let(client, "charges", keyed=False)
    assert await ask(client, "charges", CHARGE) == (201, "charge-1")
    assert await ask(client, "charges", CHARGE) == (201, "charge-2")
    assert await charges(client) == [("k", 2, 0), ("k", 2, 0)]


async def test_a_key_is_forgotten_after_its_time(
    client: httpx.AsyncClient, clock: FakeClock
) -> None:
    await let(client, "charges", forget_keys_after=10)
    await ask(client, "charges", CHARGE)
    clock.advance(10)
    await ask(client, "charges", CHARGE)
    assert len(await charges(client)) == 1
    clock.advance(0.1)
    await ask(client, "charges", CHARGE)
    assert len(await charges(client)) == 2


async def test_an_account_bears_what_its_limit_says_and_what_was_refunded_counts_no_more(
    client: httpx.AsyncClient,
) -> None:
    large = {**CHARGE, "amount": 800}
    assert (await ask(client, "charges", large, "a"))[0] == 201
    assert await ask(client, "charges", large, "b") == (402, "limit-exceeded")
    assert (await ask(client, "refunds", {"charge": "a"}, "c"))[0] == 201
    assert await ask(client, "charges", large, "b") == (402, "limit-exceeded"), "its first answer"
    assert (await ask(client, "charges", large, "d"))[0] == 201


async def test_a_charge_is_refunded_once_by_its_id_or_by_its_key(
    client: httpx.AsyncClient,
) -> None:
    await ask(client, "charges", CHARGE, "a")
    await ask(client, "charges", CHARGE, "b")
    assert await ask(client, "refunds", {"charge": "charge-1"}, "c") == (201, "refund-1")
    assert await ask(client, "refunds", {"charge": "a"}, "d") == (409, "already-refunded")
    assert await ask(client, "refunds", {"charge": "b"}, "e") == (201, "refund-2")
    assert await charges(client) == [("a", 1, 1), ("b", 1, 1)]


async def test_a_charge_that_was_refunded_before_it_came_never_comes(
    client: httpx.AsyncClient,
) -> None:
    assert await ask(client, "refunds", {"charge": "k"}, "a") == (200, {"voided": "k"})
    assert await ask(client, "charges", CHARGE) == (409, "voided")
    assert await charges(client) == []


@pytest.mark.parametrize(("fault", "charged"), [("fail_before", []), ("fail_after", [("k", 1, 0)])])
async def test_a_request_fails_before_the_effect_or_after_it_so_often_as_it_was_told(
    client: httpx.AsyncClient, fault: str, charged: list[tuple[str, int, int]]
) -> None:
    await let(client, "charges", **{fault: 1})
    assert await ask(client, "charges", CHARGE) == (500, "failed")
    assert await charges(client) == charged
    assert await ask(client, "charges", CHARGE) == (201, "charge-1")
    assert await charges(client) == [("k", 2, 0)]


async def test_a_connection_is_cut_after_the_effect(client: httpx.AsyncClient) -> None:
    await let(client, "charges", cut_after=1)
    with pytest.raises(httpx.TransportError):
        await ask(client, "charges", CHARGE)
    assert await charges(client) == [("k", 1, 0)]


@pytest.mark.parametrize("status", [402, 409])
async def test_a_request_is_refused_so_often_as_it_was_told_and_its_key_keeps_the_answer(
    client: httpx.AsyncClient, status: int
) -> None:
    await let(client, "charges", refuse=1, refuse_status=status)
    assert await ask(client, "charges", CHARGE, "a") == (status, "refused")
    assert await ask(client, "charges", CHARGE, "a") == (status, "refused")
    assert await ask(client, "charges", CHARGE, "b") == (201, "charge-1")


async def test_what_was_charged_is_not_refused_later(client: httpx.AsyncClient) -> None:
    await ask(client, "charges", CHARGE)
    await let(client, "charges", refuse=1)
    assert await ask(client, "charges", CHARGE) == (201, "charge-1")


async def test_an_order_that_was_cancelled_before_it_came_never_comes(
    client: httpx.AsyncClient,
) -> None:
    order = {"reference": "trip", "item": "seat", "webhook": "http://127.0.0.1:1/"}
    assert await ask(client, "orders", order, "a") == (202, "order-1")
    assert (await ask(client, "cancels", {"order": "a"}, "b"))[0] == 200
    assert (await ask(client, "cancels", {"order": "c"}, "d"))[0] == 200
    assert await ask(client, "orders", order, "c") == (409, "voided")
    told = (await client.get("/ledger")).json()["orders"]
    assert [(it["key"], it["status"]) for it in told] == [("a", "cancelled")]


async def test_a_request_that_cannot_be_is_told_what_is_wrong(client: httpx.AsyncClient) -> None:
    assert await ask(client, "charges", CHARGE, "") == (422, "invalid")
    assert await ask(client, "charges", {**CHARGE, "amount": 0}) == (422, "invalid")
    assert await ask(client, "charges", {**CHARGE, "account": None}) == (422, "invalid")
    assert await ask(client, "charges", {**CHARGE, "account": "eve"}) == (404, "unknown-account")
    assert await charges(client) == []


@pytest.mark.parametrize(
    "modes", [{"slow": -1}, {"keyed": 1}, {"fail_after": 0.5}, {"fail_after": True}, {"fast": 1}]
)
async def test_a_mode_that_cannot_be_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, modes: dict[str, object]
) -> None:
    answer = await client.put("/modes/charges", json=modes)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert Modes(**(await client.get("/modes/charges")).json()) == Modes()


async def test_modes_are_changed_from_this_machine_alone(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    app = provider(tmp_path / "provider.sqlite")
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 4000))
    async with httpx.AsyncClient(transport=transport, base_url="http://provider") as stranger:
        assert (await stranger.put("/modes/charges", json={"slow": 9})).status_code == 403
    assert Modes(**(await client.get("/modes/charges")).json()) == Modes()
