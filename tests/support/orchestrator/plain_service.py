"""A plain HTTP service in memory, which knows nothing of the library and goes wrong as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

Trouble = Callable[["PlainService", httpx.Request], Awaitable[httpx.Response]]
"""What happens to one request."""


@dataclass
class PlainService(httpx.AsyncBaseTransport):
    """Charges cards. `troubles` are taken by the next requests with their method, one by one; with
    `honours_keys` a repetition gets the answer of the first."""

    honours_keys: bool = True
    charges: dict[str, dict[str, object]] = field(default_factory=dict)
    """By the idempotency key."""
    requests: list[httpx.Request] = field(default_factory=list)
    troubles: dict[str, list[Trouble]] = field(default_factory=dict)
    count: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or not."""
        await request.aread()
        self.requests.append(request)
        waiting = self.troubles.get(request.method)
        if waiting:
            return await waiting.pop(0)(self, request)
        return self.answer(request)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """As it does when nothing goes wrong."""
        parts = request.url.path.strip("/").split("/")
        assert parts[:2] == ["v1", "charges"], request.url
        match request.method, parts[2:]:
            case "POST", []:
                return self._charge(request.headers["idempotency-key"], json.loads(request.content))
            case "GET", ["by-key", key]:
                found = self.charges.get(key)
                return said(200, found) if found else said(404)
            case "DELETE", [id]:
                for key, charge in list(self.charges.items()):
                    if charge["id"] == id:
                        del self.charges[key]
                        return said(204)
                return said(404)
            case _:
                return said(404)

    def _charge(self, key: str, body: dict[str, object]) -> httpx.Response:
        if key in self.charges and self.honours_keys:
            return said(201, self.charges[key])
        self.count += 1
        id = f"ch_{self.count}"
        self.charges[key if key not in self.charges else f"{key} again"] = {"id": id, **body}
        return said(201, {"id": id, **body})

    def asked(self, method: str) -> list[str]:
        """The paths of the requests with that method."""
        return [it.url.raw_path.decode() for it in self.requests if it.method == method]


def said(status: int, body: object = None, **headers: str) -> httpx.Response:
    """An answer with that JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=names, stream=httpx.ByteStream(content))


def says(status: int, body: object = None, **headers: str) -> Trouble:
    """Nothing is done, and this is answered."""

    async def answer(_: PlainService, __: httpx.Request) -> httpx.Response:
        return said(status, body, **headers)

    return answer


async def acts_without_answer(service: PlainService, request: httpx.Request) -> httpx.Response:
    """It is done, and the connection is cut."""
    service.answer(request)
    raise httpx.ReadError("cut")


async def does_nothing_and_is_gone(_: PlainService, __: httpx.Request) -> httpx.Response:
    """Nothing is done, and the connection is cut."""
    raise httpx.ReadError("cut")


async def never_answers(_: PlainService, __: httpx.Request) -> httpx.Response:
    """It hangs."""
    await asyncio.Event().wait()
    raise AssertionError("nothing sets it")
