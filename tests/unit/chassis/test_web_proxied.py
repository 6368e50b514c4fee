"""What stands before a service: probes that ask by HEAD, and proxies with a prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from outbox.chassis.http.proxied import Heads, Prefixed
from tests.support.http.servers import serving


async def _events() -> AsyncIterator[str]:
    yield "data: 1\n\n"
    await asyncio.Event().wait()


async def _start(request: Request) -> Response:
    where = {"path": request.scope["path"], "raw": request.scope["raw_path"].decode()}
    return JSONResponse(where, headers={"location": "/sagas/1", "content-location": "/sagas/1"})


async def _elsewhere(_: Request) -> Response:
    return PlainTextResponse("gone", 308, {"location": "https://other.example/sagas/1"})


def _app() -> Starlette:
    return Starlette(
        routes=[
            Route("/sagas", _start, methods=["GET"]),
            Route("/events", lambda _: StreamingResponse(_events()), methods=["GET"]),
            Route("/elsewhere", _elsewhere, methods=["GET"]),
            Route("/only-post", _start, methods=["POST"]),
        ]
    )


async def _ask(app: Any, method: str, path: str) -> httpx.Response:
    async with serving(app) as address, httpx.AsyncClient(base_url=address, timeout=10) as client:
        return await client.request(method, path)


async def test_head_is_answered_as_get_is_without_the_body() -> None:
    got, head = [await _ask(Heads(_app()), method, "/sagas") for method in ("GET", "HEAD")]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"] != "0"


async def test_head_of_a_stream_ends() -> None:
    assert (await _ask(Heads(_app()), "HEAD", "/events")).status_code == 200


async def test_head_of_what_cannot_be_got_is_refused_as_get_is() -> None:
    assert (await _ask(Heads(_app()), "HEAD", "/only-post")).status_code == 405
    assert (await _ask(Heads(_app()), "HEAD", "/unknown")).status_code == 404


@pytest.mark.parametrize("asked", ["/shop/sagas", "/sagas"], ids=["kept", "taken off"])
async def test_a_prefix_may_be_kept_or_taken_off(asked: str) -> None:
    answer = await _ask(Prefixed(_app(), "/shop"), "GET", asked)
    assert answer.json() == {"path": "/shop/sagas", "raw": "/shop/sagas"}
    assert answer.headers["location"] == "/shop/sagas/1"
    assert answer.headers["content-location"] == "/shop/sagas/1"


async def test_a_path_that_only_looks_like_the_prefix_is_below_it() -> None:
    answer = await _ask(Prefixed(_app(), "/sag"), "GET", "/sagas")
    assert answer.json()["path"] == "/sag/sagas"


async def test_addresses_elsewhere_and_those_without_a_prefix_stay() -> None:
    answer = await _ask(Prefixed(_app(), "/shop"), "GET", "/elsewhere")
    assert answer.headers["location"] == "https://other.example/sagas/1"
    answer = await _ask(Prefixed(_app(), ""), "GET", "/sagas")
    assert answer.headers["location"] == "/sagas/1"


async def test_the_prefix_that_the_server_was_told_counts_too() -> None:
    app = Prefixed(_app(), "")
    async with (
        serving(app, root_path="/shop") as address,
        httpx.AsyncClient(base_url=address) as client,
    ):
        answer = await client.get("/sagas")
    assert answer.headers["location"] == "/shop/sagas/1"
