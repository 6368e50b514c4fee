"""A receiver behind a proxy that takes a prefix off the path, or keeps it: a real nginx.

What is signed is the path that the sender asks for. It may differ from the one that arrives only
where the service knows the prefix, or the request names the service, which no other one then takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from outbox.chassis.http.proxied import Prefixed
from outbox.replies import Outcome
from outbox.transports.base import Answered, Unreachable
from outbox.transports.http import HttpTransport
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import sign
from outbox.wire.envelope import BATCH, to_batch
from tests.support.http.nginx import Passing, passing_on
from tests.support.http.servers import serving
from tests.support.outbox.inboxes import Bench, Book, Names, envelope
from tests.support.outbox.receiving import KEYS
from tests.support.processes.waiting import BUSY


def _app(bench: Bench, root_path: str = "", prefix: str = "") -> Any:
    app = FastAPI()
    app.include_router(receiver(bench.inbox, keys=KEYS, clock=bench.clock), prefix=prefix)
    return Prefixed(app, root_path)


async def _delivered(address: str, bench: Bench, names: Names, **options: Any) -> Any:
    given: dict[str, Any] = {"source": "sender", "keys": KEYS, "clock": bench.clock, **options}
    transport = HttpTransport(address, timeout=10 * BUSY, **given)
    try:
        return await transport.deliver([envelope(names(), Book("a"))])
    finally:
        await transport.aclose()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("passing", "root_path", "prefix", "options"),
    [
        (Passing(prefix="/shop"), "", "", {"to": "bank"}),
        (Passing(prefix="/shop"), "/shop", "", {}),
        (Passing(prefix="/shop", keeps_prefix=True), "/shop", "", {}),
        (Passing(prefix="/shop", keeps_prefix=True), "", "/shop", {}),
    ],
    ids=["stripped, and named", "stripped, and known", "kept, and known", "kept, and routed"],
)
async def test_messages_arrive_through_a_proxy_with_a_prefix(
    bench: Bench,
    names: Names,
    tmp_path: Path,
    passing: Passing,
    root_path: str,
    prefix: str,
    options: Mapping[str, str],
) -> None:
    async with (
        serving(_app(bench, root_path, prefix)) as address,
        passing_on({"bank": address}, tmp_path / "nginx", passing) as urls,
    ):
        answer = await _delivered(f"{urls['bank']}/shop", bench, names, **options)
    assert isinstance(answer, Answered), answer
    assert [reply.outcome for reply in answer.replies] == [Outcome.DONE]


@pytest.mark.databases("sqlite")
async def test_a_prefix_that_no_one_knows_of_is_refused_with_both_paths(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with (
        serving(_app(bench)) as address,
        passing_on({"bank": address}, tmp_path / "nginx", Passing(prefix="/shop")) as urls,
    ):
        answer = await _delivered(f"{urls['bank']}/shop", bench, names)
    assert isinstance(answer, Unreachable)
    said = "signed for the path '/shop/messages', and came here at '/messages'"
    assert said in answer.reason
    assert await bench.entries() == []


async def _captured(bench: Bench, names: Names, target: str, **named: str) -> dict[str, Any]:
    """A request as it was sent to that target."""
    body = to_batch([envelope(names(), Book("a"))])
    headers = {"content-type": BATCH, "sagabox-target": target, **named}
    headers |= sign(
        KEYS, method="POST", target=target, headers=headers, body=body, now=bench.clock.now()
    )
    return {"content": body, "headers": headers}


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("target", "named", "to", "changed"),
    [
        # To another service, at the same path and at another one.
        ("/messages", {"ce-sagaboxto": "stock"}, "/messages", {}),
        ("/stock/messages", {"ce-sagaboxto": "stock"}, "/messages", {}),
        ("/stock/messages", {"ce-sagaboxto": "stock"}, "/messages", {"ce-sagaboxto": "bank"}),
        ("/messages", {"ce-sagaboxto": "stock"}, "/messages", {"ce-sagaboxto": None}),
        # To another path.
        ("/shop/messages", {}, "/messages", {}),
        ("/shop/messages", {}, "/messages", {"sagabox-target": "/messages"}),
        ("/shop/messages", {}, "/messages", {"sagabox-target": None}),
        ("/shop/messages", {}, "/messages", {"x-forwarded-prefix": "/shop"}),
        ("/messages", {}, "/messages?again=1", {}),
        ("/other", {"ce-sagaboxto": "bank"}, "/messages", {}),
    ],
)
async def test_a_captured_request_opens_no_other_service_and_no_other_path(
    bench: Bench,
    names: Names,
    target: str,
    named: Mapping[str, str],
    to: str,
    changed: Mapping[str, str | None],
) -> None:
    request = await _captured(bench, names, target, **named)
    headers = {**request["headers"], **changed}
    request["headers"] = {name: value for name, value in headers.items() if value is not None}
    transport = httpx.ASGITransport(_app(bench))
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
        assert (await client.post(to, **request)).status_code == 401
    assert await bench.entries() == []


@pytest.mark.databases("sqlite")
async def test_a_request_of_an_older_sender_is_taken_at_the_path_that_it_was_signed_for(
    bench: Bench, names: Names
) -> None:
    request = await _captured(bench, names, "/messages")
    del request["headers"]["sagabox-target"]
    transport = httpx.ASGITransport(_app(bench))
    async with httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
        assert (await client.post("/messages", **request)).status_code == 200


@pytest.mark.databases("sqlite")
async def test_the_root_path_of_uvicorn_is_a_prefix_too(
    bench: Bench, names: Names, tmp_path: Path
) -> None:
    async with (
        serving(_app(bench), root_path="/shop") as address,
        passing_on({"bank": address}, tmp_path / "nginx", Passing(prefix="/shop")) as urls,
    ):
        assert isinstance(await _delivered(f"{urls['bank']}/shop", bench, names), Answered)
        direct = await _delivered(address, bench, names, to="bank")
    assert isinstance(direct, Answered), "a peer on the same side of the proxy"
