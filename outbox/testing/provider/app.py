"""The addresses of a fake provider."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from outbox.clock import Clock, SystemClock
from outbox.testing.provider.ledger import Ledger
from outbox.testing.provider.modes import KINDS, Fault, Kind
from outbox.testing.provider.webhooks import call_webhooks

_LOOPBACK = ("127.0.0.1", "::1")

Endpoint = Callable[[Request], Awaitable[Response]]


def provider(path: Path, clock: Clock | None = None) -> Starlette:
    """The application, with its state in the SQLite file `path`."""
    clock = clock or SystemClock()
    ledger = Ledger(path)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        calling = asyncio.create_task(call_webhooks(ledger, clock))
        yield
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def tell(_: Request) -> Response:
        return JSONResponse(ledger.told())

    async def open_account(request: Request) -> Response:
        limit = (await _body(request)).get("limit")
        if type(limit) is not int or limit < 0:
            raise ValueError(f"'limit' must be a number of cents, and is {limit!r}")
        ledger.open_account(request.path_params["account"], limit)
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/readyz", readyz),
            Route("/ledger", tell),
            Route("/accounts/{account}", _checked(open_account), methods=["PUT"]),
            *(
                route
                for kind in KINDS
                for route in (
                    Route(f"/{kind}", _taking(kind, ledger, clock), methods=["POST"]),
                    Route(f"/modes/{kind}", _modes(kind, ledger), methods=["GET", "PUT"]),
                )
            ),
        ],
        lifespan=lifespan,
    )


def _taking(kind: Kind, ledger: Ledger, clock: Clock) -> Endpoint:
    async def take(request: Request) -> Response:
        key = request.headers.get("idempotency-key", "")
        body = await _body(request)
        turn = ledger.begin(kind, key)
        if turn.modes.keyed and not key:
            raise ValueError("the header Idempotency-Key is missing")
        await asyncio.sleep(turn.modes.slow)
        match turn.fault:
            case "fail_before":
                return _FAILED
            case "die_before":
                _die()
            case _:
                answer = ledger.perform(kind, key, body, clock.now())
                return _after(turn.fault, JSONResponse(answer.body, answer.status))

    return _checked(take)


def _after(fault: Fault | None, response: Response) -> Response:
    """What becomes of the response when all is done."""
    match fault:
        case "fail_after":
            return _FAILED
        case "cut_after":
            return _Cut()
        case "die_after":
            _die()
        case _:
            return response


def _modes(kind: Kind, ledger: Ledger) -> Endpoint:
    async def modes(request: Request) -> Response:
        if request.client is None or request.client.host not in _LOOPBACK:
            return JSONResponse({"code": "forbidden", "message": "only from this machine"}, 403)
        if request.method == "PUT":
            ledger.change_modes(kind, await _body(request))
        return Response(ledger.modes(kind).dumps(), media_type="application/json")

    return _checked(modes)


def _checked(endpoint: Endpoint) -> Endpoint:
    async def checked(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValueError as error:
            return JSONResponse({"code": "invalid", "message": str(error)}, 422)

    return checked


async def _body(request: Request) -> dict[str, Any]:
    body = await request.json()
    if not isinstance(body, dict):
        raise ValueError(f"the body must be an object, and is {body!r}")
    return body


class _Cut(Response):
    """Begins, and ends within: the caller gets httpx.TransportError, from a process as well as from
    an application in its own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        raise httpx.ReadError("the connection was cut")


_FAILED = JSONResponse({"code": "failed", "message": "it went wrong"}, 500)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")
