"""The gRPC server of a process: its services, with health checking and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from outbox.errors import InvalidService

STOPS_WITHIN = 5.0
"""Seconds that calls under way have when the server stops."""

_SIZE = 4
MOST_CALLS = 512
"""Calls of all kinds that are under way at once; gRPC refuses the next one."""
REFLECTS_WITHIN = 10.0
"""Seconds for which a caller may ask what there is, in one call."""
MOST_STREAMS = 128
"""Calls at once on one connection; the next one waits at its sender."""


class Hosted(Protocol):
    """A service of a server. A request of more than `max_request` bytes is not for it."""

    @property
    def name(self) -> str: ...
    @property
    def max_request(self) -> int: ...
    def handler(self) -> grpc.GenericRpcHandler: ...
    async def drain(self) -> None: ...


@dataclass(frozen=True)
class Tls:
    """The certificate chain of a server and its private key, in PEM."""

    certificate: bytes
    key: bytes


class _Health(health.aio.HealthServicer):
    """Health that is asked for. A call that watches it would need no key and never end: some
    hundred of them would leave no place for messages."""

    async def Watch(  # noqa: N802 - gRPC's name
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "this server has no Watch; call Check from time to time"
        )


class _Reflection(reflection.aio.ReflectionServicer):
    """Reflection whose calls end, for the same reason."""

    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802 - gRPC's; it writes
        self, requests: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        answers: Any = super().ServerReflectionInfo(requests, context)
        try:
            async with asyncio.timeout(REFLECTS_WITHIN):
                async for told in answers:
                    await context.write(told)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the call was open for long; make another one"
            )


class GrpcServer:
    """A server of these services at `host` and `port` (0: one that is free); with `tls` it takes
    only TLS.

        async with GrpcServer([MessagesService(door)], port=9001).serving() as port:
            ...

    Health checking (`grpc.health.v1.Health`) says SERVING until it stops, and reflection lists what
    there is. Both are open to all callers, and tell nothing of what is stored.
    """

    def __init__(
        self,
        services: Sequence[Hosted],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
    ) -> None:
        self._services = services
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._tls = tls

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Serve until the block ends; gives the port. Raises InvalidService where it is taken."""
        server, healthy = self._made()
        port = self._bound(server)
        for name in ("", *(each.name for each in self._services)):
            await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        try:
            yield port
        finally:
            await healthy.enter_graceful_shutdown()
            await server.stop(STOPS_WITHIN)
            await asyncio.gather(*(each.drain() for each in self._services))

    def _made(self) -> tuple[grpc.aio.Server, Any]:
        largest = max(each.max_request for each in self._services)
        server = grpc.aio.server(
            maximum_concurrent_rpcs=MOST_CALLS,
            options=(
                # Two processes with one port would take each other's calls.
                ("grpc.so_reuseport", 0),
                # Above this gRPC itself refuses, in words that do not say whose limit it was: so
                # the services refuse before.
                ("grpc.max_receive_message_length", _SIZE * largest),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", MOST_STREAMS),
            ),
        )
        server.add_generic_rpc_handlers(tuple(each.handler() for each in self._services))
        healthy = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        names = [each.name for each in self._services]
        told = _Reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add(told, server)
        return server, healthy

    def _bound(self, server: grpc.aio.Server) -> int:
        address = f"{self._host}:{self._port}"
        try:
            if self._tls is None:
                return server.add_insecure_port(address)
            pair = (self._tls.key, self._tls.certificate)
            return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise InvalidService(
                f"the gRPC server cannot listen at {address}: {error}",
                next_step="free the port, or choose another one: SAGABOX_GRPC_PORT, --grpc-port",
            ) from error
