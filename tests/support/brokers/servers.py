"""The brokers that a test may kill, each as a server of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from tests.support.brokers.nats_server import NatsServer
from tests.support.brokers.rabbitmq_server import RabbitServer
from tests.support.brokers.redis_server import RedisServer


class Server(Protocol):
    """A broker that runs. What it has taken outlives its deaths."""

    def url(self) -> str:
        """Its address, as settings have it."""

    def start(self) -> None:
        """Start it again; returns when it can be used."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def close(self) -> None:
        """End it for good."""


SERVERS: Mapping[str, Callable[[], Server]] = {
    "NATS": NatsServer,
    "RabbitMQ": RabbitServer,
    "Redis": RedisServer,
}


@asynccontextmanager
async def a_server(name: str) -> AsyncIterator[Server]:
    """The broker of that name, for the block."""
    server = await asyncio.to_thread(SERVERS[name])
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)
