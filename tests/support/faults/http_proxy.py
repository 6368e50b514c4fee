"""A proxy in front of a service that does to requests and answers what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import orjson

from tests.support.http.servers import Exchange, Request, scripted

_TOO_BUSY = orjson.dumps({"code": "too-busy", "detail": "the gate is closed"})
_HOP_BY_HOP = {"host", "connection", "content-length"}


@dataclass
class HttpProxy:
    """Stands in front of the service at `target`. `seen` has every request that it let through."""

    target: str
    client: httpx.AsyncClient
    address: str = ""
    seen: list[Request] = field(default_factory=list)
    is_open: bool = True

    async def forward(self, request: Request) -> httpx.Response:
        """The service's answer to the request."""
        headers = {it: value for it, value in request.headers.items() if it not in _HOP_BY_HOP}
        return await self.client.post(
            self.target + request.target, headers=headers, content=request.body
        )

    async def plainly(self, exchange: Exchange) -> None:
        """Once and in order; where the gate is closed, the service seems too busy."""
        if not self.is_open:
            await exchange.answer(503, _TOO_BUSY, retry_after="0")
            return
        self.seen.append(exchange.request)
        await _answer(exchange, await self.forward(exchange.request))

    async def twice(self, exchange: Exchange) -> None:
        """Two copies at the same time; the answer to one of them is lost."""
        self.seen.append(exchange.request)
        _, answer = await asyncio.gather(*(self.forward(exchange.request) for _ in range(2)))
        await _answer(exchange, answer)

    async def slowly(self, exchange: Exchange) -> None:
        """Each takes half a second more, about a hundred times what the service needs."""
        self.seen.append(exchange.request)
        await asyncio.sleep(0.5)
        await _answer(exchange, await self.forward(exchange.request))

    async def without_every_third_answer(self, exchange: Exchange) -> None:
        """The service does what it is asked; of every third request, the sender never learns."""
        self.seen.append(exchange.request)
        is_third = len(self.seen) % 3 == 0
        answer = await self.forward(exchange.request)
        if is_third:
            exchange.reset()
        else:
            await _answer(exchange, answer)


async def _answer(exchange: Exchange, answer: httpx.Response) -> None:
    kept = {it: value for it, value in answer.headers.items() if it not in _HOP_BY_HOP}
    await exchange.answer(answer.status_code, answer.content, **kept)


@asynccontextmanager
async def http_proxy(
    target: str, way: Callable[[HttpProxy, Exchange], Awaitable[None]]
) -> AsyncIterator[HttpProxy]:
    """A proxy that does with each request what `way` says, such as HttpProxy.twice."""
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        proxy = HttpProxy(target, client)

        async def script(exchange: Exchange) -> None:
            try:
                await way(proxy, exchange)
            except httpx.TransportError:
                exchange.reset()  # the service behind it is away

        async with scripted(script) as server:
            proxy.address = server.address
            yield proxy
