"""Both ends of gRPC: a caller of a service's Messages, rightly or wrongly signed, and a server that
answers as a test wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from outbox.testing import FakeClock
from outbox.transports.grpc.envelopes import replies_in, request_of
from outbox.transports.grpc.receiver import MessagesService
from outbox.transports.grpc.server import GrpcServer, Tls
from outbox.transports.grpc.transport import DELIVER, GrpcTransport
from outbox.transports.http.door import Door
from outbox.transports.http.signing import Keyring, sign
from outbox.wire.envelope import Envelope
from tests.support.checkout import CERTIFICATE
from tests.support.http.http_ends import KEYS, ONE
from tests.support.outbox.inboxes import Bench
from tests.support.processes.waiting import BUSY

OWN_TLS = Tls(CERTIFICATE.read_bytes(), CERTIFICATE.read_bytes())
"""The certificate of the tests, which is for loopback, and trusts itself."""

Answer = Callable[[bytes, Any], Awaitable[bytes]]


class Caller:
    """Signs as another service does, and lets a test do it wrongly."""

    def __init__(self, port: int, clock: FakeClock) -> None:
        self.port = port
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._clock = clock

    async def call(
        self,
        body: bytes,
        *,
        target: str = DELIVER,
        metadata: Mapping[str, str] | None = None,
        keys: Keyring = KEYS,
        later: Sequence[tuple[str, str]] = (),
        sent: bytes | None = None,
        **options: Any,
    ) -> bytes:
        """The answer to Deliver with this body; `later` and `sent` are not what was signed."""
        given = dict(metadata or {})
        given |= sign(
            keys, method="POST", target=target, headers=given, body=body, now=self._clock.now()
        )
        pairs = tuple((name.lower(), value) for name, value in given.items()) + tuple(later)
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(DELIVER)
        return await method(
            body if sent is None else sent, metadata=pairs, timeout=10 * BUSY, **options
        )

    async def send(self, *envelopes: Envelope, **rest: Any) -> Any:
        """The replies to a batch."""
        answer = await self.call(request_of(envelopes), **rest)
        return replies_in(answer, [each.id for each in envelopes])


@asynccontextmanager
async def called(bench: Bench, **limits: Any) -> AsyncIterator[Caller]:
    """A caller of the Messages of that inbox, on a server of its own."""
    service = MessagesService(Door(bench.inbox, keys=KEYS, clock=bench.clock, **limits))
    async with GrpcServer([service]).serving() as port:
        caller = Caller(port, bench.clock)
        yield caller
        await caller.channel.close()


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    """The address of a server whose Deliver is `answer`, and the server."""
    server = grpc.aio.server()
    deliver: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    service = DELIVER.split("/")[1]
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Deliver": deliver}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", server
    finally:
        await server.stop(0)


def to(address: str, **options: Any) -> GrpcTransport:
    """A patient transport, unless the options say how long it waits."""
    arguments: dict[str, Any] = {"source": "articles", "keys": KEYS, "clock": FakeClock()}
    return GrpcTransport(address, **(arguments | {"timeout": 10 * BUSY} | options))


async def delivery_to(answer: Answer, *envelopes: Envelope, **options: Any) -> Any:
    """What one delivery to such a server gives."""
    async with answering(answer) as (address, _):
        transport = to(address, **options)
        delivery = await transport.deliver(envelopes or ONE)
        await transport.aclose()
        return delivery
