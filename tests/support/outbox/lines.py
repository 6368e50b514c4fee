"""The lines of the contract of transports: one for each way that there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

from outbox.clock import SystemClock
from outbox.replies import Reply
from outbox.testing.transport_contract import Confirms, Features, Line, Order, Receive, Settled
from outbox.transports import (
    HttpTransport,
    InProcessTransport,
    MemoryTransport,
    WebhookTransport,
)
from outbox.transports.grpc.receiver import MessagesService
from outbox.transports.grpc.server import GrpcServer
from outbox.transports.grpc.transport import GrpcTransport
from outbox.transports.http.door import MAX_BODY_BYTES, Door
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope, from_structured
from outbox.wire.settled import EndedSagas
from tests.support.http.servers import serving
from tests.support.outbox.accepting import AcceptingTransport
from tests.support.outbox.subscribers import is_signed, subscribed

_CLOCK = SystemClock()
_KEYS = Keyring({"now": os.urandom(32)}, "now")


class OtherSide:
    """Whether the handling end is there, gone or silent."""

    def __init__(self, receive: Receive) -> None:
        self.consumer = "comments"
        self.is_gone = False
        self._receive = receive
        self._silent = False
        self._speaks = asyncio.Event()

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> Sequence[Reply]:
        """What the handling end says, if it is there."""
        if self.is_gone:
            raise ConnectionError("the destination is gone")
        if self._silent:
            await self._speaks.wait()
            raise ConnectionError("the destination was silent")
        return await self._receive(envelopes, settled)

    async def cut(self) -> None:
        """It is gone."""
        self.is_gone = True

    async def silence(self) -> None:
        """It says nothing."""
        self._silent = True
        self._speaks = asyncio.Event()

    async def restore(self) -> None:
        """It is there again."""
        self.is_gone = self._silent = False
        self._speaks.set()


@asynccontextmanager
async def by_memory(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A `MemoryTransport`."""
    other = OtherSide(receive)
    transport = MemoryTransport(other.receive, settled=settled, timeout=timeout)
    yield Line(transport=transport, cut=other.cut, silence=other.silence, restore=other.restore)
    await transport.aclose()


class _Neighbour:
    """A service of this process, while it runs."""

    name = "comments"

    def __init__(self, inbox: OtherSide) -> None:
        self.inbox = inbox

    @property
    def runs_here(self) -> bool:
        return not self.inbox.is_gone


@asynccontextmanager
async def in_process(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """An `InProcessTransport`."""
    other = OtherSide(receive)
    transport = InProcessTransport(_Neighbour(other), settled=settled, timeout=timeout)
    yield Line(transport=transport, cut=other.cut, silence=other.silence, restore=other.restore)
    await transport.aclose()


@asynccontextmanager
async def by_http(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """An `HttpTransport`, and uvicorn with the receiver."""
    other: Any = OtherSide(receive)
    app = FastAPI()
    app.include_router(receiver(other, keys=_KEYS, clock=_CLOCK))
    server = contextlib.AsyncExitStack()
    address = await server.enter_async_context(serving(app))

    async def cut() -> None:
        await server.aclose()

    async def restore() -> None:
        await other.restore()
        port = int(address.rpartition(":")[2])
        await server.aclose()
        await server.enter_async_context(serving(app, at=port))

    options: dict[str, Any] = {"settled": settled, "timeout": timeout}
    transport = HttpTransport(address, source="articles", keys=_KEYS, clock=_CLOCK, **options)
    try:
        yield Line(transport=transport, cut=cut, silence=other.silence, restore=restore)
    finally:
        await transport.aclose()
        await other.restore()
        await server.aclose()


@asynccontextmanager
async def by_grpc(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A `GrpcTransport`, and a server with the receiver."""
    other: Any = OtherSide(receive)
    service = MessagesService(Door(other, keys=_KEYS, clock=_CLOCK))
    server = contextlib.AsyncExitStack()
    port = await server.enter_async_context(GrpcServer([service]).serving())

    async def restore() -> None:
        await other.restore()
        await server.aclose()
        await server.enter_async_context(GrpcServer([service], port=port).serving())

    options: dict[str, Any] = {"settled": settled, "timeout": timeout}
    transport = GrpcTransport(
        f"grpc://127.0.0.1:{port}", source="articles", keys=_KEYS, clock=_CLOCK, **options
    )
    try:
        yield Line(transport=transport, cut=server.aclose, silence=other.silence, restore=restore)
    finally:
        await transport.aclose()
        await other.restore()
        await server.aclose()


@asynccontextmanager
async def by_accepting(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """An `AcceptingTransport`, and a consumer of its queue."""
    transport = AcceptingTransport(timeout=timeout)
    broker = transport.broker

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Reply]:
        return await receive(envelopes, None)

    async def consume() -> None:
        while True:
            await broker.changed.wait()
            with contextlib.suppress(ConnectionError):
                await transport.drain(handle)
            if not broker.messages:
                broker.changed.clear()
            await asyncio.sleep(0)

    async def cut() -> None:
        broker.is_gone = True

    async def silence() -> None:
        broker.is_silent = True

    async def restore() -> None:
        broker.is_gone = broker.is_silent = False

    consumer = asyncio.create_task(consume())
    try:
        yield Line(transport=transport, cut=cut, silence=silence, restore=restore)
    finally:
        await transport.aclose()
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


@asynccontextmanager
async def by_webhook(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """A `WebhookTransport`, and uvicorn with a subscriber that knows nothing of this library."""
    assert settled is None, "a subscriber is told nothing of sagas"
    other = OtherSide(receive)
    app = FastAPI()

    @app.post("/hook")
    async def hook(request: Request) -> Response:
        headers, body = dict(request.headers), await request.body()
        if not is_signed(headers, body):
            return Response(status_code=401)
        await other.receive([from_structured(body)])
        return Response(status_code=204)

    server = contextlib.AsyncExitStack()
    address = await server.enter_async_context(serving(app))

    async def restore() -> None:
        await other.restore()
        port = int(address.rpartition(":")[2])
        await server.aclose()
        await server.enter_async_context(serving(app, at=port))

    with subscribed(f"{address}/hook") as webhook:
        transport = WebhookTransport(webhook, source="articles", clock=_CLOCK, timeout=timeout)
    try:
        yield Line(transport=transport, cut=server.aclose, silence=other.silence, restore=restore)
    finally:
        await transport.aclose()
        await other.restore()
        await server.aclose()


MEMORY = Features(
    confirms=Confirms.BY_REPLIES, tells_when_nothing_left=False, carries_statements=True
)
IN_PROCESS = Features(
    confirms=Confirms.BY_REPLIES, tells_when_nothing_left=True, carries_statements=True
)
HTTP = Features(
    confirms=Confirms.BY_REPLIES,
    largest=MAX_BODY_BYTES - 4096,
    tells_when_nothing_left=True,
    carries_statements=True,
)
GRPC = HTTP
"""The limits are the same."""
WEBHOOK = Features(
    confirms=Confirms.BY_TAKING,
    order=Order.OF_A_KEY,
    tells_when_nothing_left=True,
    carries_commands=False,
    carries_statements=False,
)
ACCEPTING = Features(
    confirms=Confirms.BY_ACCEPTING, tells_when_nothing_left=True, carries_statements=False
)
