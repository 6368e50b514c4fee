"""The brokers that are measured, each alone on loopback, as durable as its page asks for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from benchmarks.brokers import pipelined
from benchmarks.brokers.pipelined import Publisher
from benchmarks.contenders.installed import Missing
from benchmarks.hearing.services import MOCK_OF_KAFKA
from benchmarks.names import KAFKA, NATS, NATS_ALWAYS, RABBITMQ, REDIS
from outbox.transports.brokers.address import DEFAULT_PARTITIONS
from tests.support.brokers.kafka_mock import Cluster
from tests.support.brokers.nats_server import NatsServer
from tests.support.brokers.rabbitmq_server import RabbitServer
from tests.support.brokers.redis_server import RedisServer

_Server = TypeVar("_Server")

_OF_THE_MOCK = 4
"""Partitions of each topic of the mock cluster."""


@dataclass(frozen=True)
class Running:
    """A server that runs. `address` gives that of queues with that prefix, and `create` makes the
    queue of that full name where only who runs the broker does so. `reading` is what the
    environment of a service says that reads its queue at an address."""

    address: Callable[[str], str]
    create: Callable[[str], Awaitable[None]]
    reading: str = "SAGABOX_BROKER"


@dataclass(frozen=True)
class Kind:
    """A kind of broker. `running` raises Missing where it is not installed. `alone` is what its
    client library does by itself."""

    name: str
    running: Callable[[], AbstractAsyncContextManager[Running]]
    alone: Callable[[str], AbstractAsyncContextManager[Publisher]]


@asynccontextmanager
async def _nats(jetstream: str = "") -> AsyncIterator[Running]:
    # As it comes, `sync_interval` is two minutes: a message is in the file when it is answered
    # for, and on the disk later.
    server = await _started(lambda: NatsServer(jetstream=jetstream))
    try:
        yield Running(lambda prefix: server.url(_options(prefix)), _by_itself)
    finally:
        await asyncio.to_thread(server.close)


@asynccontextmanager
async def _rabbitmq() -> AsyncIterator[Running]:
    server = await _started(RabbitServer)
    try:
        yield Running(lambda prefix: server.url(_options(prefix)), _by_itself)
    finally:
        await asyncio.to_thread(server.close)


@asynccontextmanager
async def _redis() -> AsyncIterator[Running]:
    server = await _started(RedisServer)
    try:
        yield Running(lambda prefix: server.url(query=_options(prefix)), _by_itself)
    finally:
        await asyncio.to_thread(server.close)


@asynccontextmanager
async def _kafka() -> AsyncIterator[Running]:
    cluster = await _started(_mock_cluster)

    async def create(topic: str) -> None:
        await asyncio.to_thread(cluster.create, topic)

    try:
        at = f"kafka://127.0.0.1:{cluster.port}"
        yield Running(
            lambda prefix: f"{at}?{_options(prefix, _OF_THE_MOCK)}", create, MOCK_OF_KAFKA
        )
    finally:
        await asyncio.to_thread(cluster.close)


KINDS = (
    Kind(NATS, _nats, pipelined.by_nats),
    Kind(NATS_ALWAYS, lambda: _nats("sync_interval: always"), pipelined.by_nats),
    Kind(RABBITMQ, _rabbitmq, pipelined.by_aio_pika),
    Kind(REDIS, _redis, pipelined.by_redis),
    Kind(KAFKA, _kafka, pipelined.by_aiokafka),
)
_numbers = itertools.count(1)


def fresh_prefix() -> str:
    """A prefix of queues that no benchmark has used."""
    return f"bench-{next(_numbers)}"


def _options(prefix: str, partitions: int = DEFAULT_PARTITIONS) -> str:
    return f"partitions={partitions}&prefix={prefix}"


async def _by_itself(_: str) -> None:
    """Who is first to use the queue makes it."""


def _mock_cluster() -> Cluster:
    pytest.importorskip("confluent_kafka", reason="its mock cluster stands for Kafka")
    return Cluster()


async def _started(start: Callable[[], _Server]) -> _Server:
    try:
        return await asyncio.to_thread(start)
    except pytest.skip.Exception as skipped:  # as a fixture says that its server is not installed
        raise Missing(str(skipped.msg)) from None
