"""Others at a broker, who use its own client and nothing of this library: they make topics, send
to them, and read what comes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aio_pika
import nats
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from redis.asyncio import Redis

import outbox
from tests.support.brokers.kafka_mock import MockKafka, a_kafka
from tests.support.brokers.nats_server import a_nats_server
from tests.support.brokers.rabbitmq_server import shared_rabbit
from tests.support.brokers.redis_server import a_redis

_PATIENCE = 20.0


@dataclass(frozen=True)
class Seen:
    """A message as a plain client reads it."""

    headers: Mapping[str, str]
    body: bytes
    content_type: str | None
    key: str = ""


class Stranger(Protocol):
    """Others at one broker, who own two topics."""

    topic: outbox.Topic
    """The one to which a service sends."""
    followed: outbox.Topic
    """The one that a service follows."""

    async def make(self) -> None:
        """Make the topics."""

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a message to the one that is followed."""

    async def read(self, count: int) -> Sequence[Seen]:
        """The first `count` messages in the other."""


class AtNats:
    """Two subjects of one stream."""

    def __init__(self, client: Any, url: str) -> None:
        self._context = client.jetstream(timeout=_PATIENCE)
        self.topic = outbox.Topic(url, "shop.orders")
        self.followed = outbox.Topic(url, "shop.parcels")

    async def make(self) -> None:
        await self._context.add_stream(name="SHOP", subjects=["shop.>"])

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self._context.publish("shop.parcels", body, headers=headers)

    async def read(self, count: int) -> Sequence[Seen]:
        reading = await self._context.subscribe("shop.orders", ordered_consumer=True)
        found = [await reading.next_msg(_PATIENCE) for _ in range(count)]
        await reading.unsubscribe()
        return [
            Seen(it.headers or {}, it.data, (it.headers or {}).get("content-type")) for it in found
        ]


class AtRabbit:
    """An exchange with a queue bound to it, and another queue."""

    def __init__(self, channel: Any, url: str, name: str) -> None:
        self._channel = channel
        self._name = name
        self.topic = outbox.Topic(url, name)
        self.followed = outbox.Topic(url, f"{name}-parcels")

    async def make(self, bound_to: str = "#") -> None:
        exchange = await self._channel.declare_exchange(self._name, "topic", durable=True)
        queue = await self._channel.declare_queue(f"{self._name}-queue", durable=True)
        await queue.bind(exchange, bound_to)
        await self._channel.declare_queue(self.followed.name, durable=True)

    async def declare(self, name: str, arguments: dict[str, Any]) -> outbox.Topic:
        """A further queue of that kind."""
        topic = outbox.Topic(self.followed.broker, f"{self._name}-{name}")
        await self._channel.declare_queue(topic.name, durable=True, arguments=arguments)
        return topic

    async def send_to(self, topic: outbox.Topic, body: bytes) -> None:
        """Send a message to that queue."""
        await self._channel.default_exchange.publish(aio_pika.Message(body), topic.name)

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        told: dict[str, Any] = dict(headers or {})
        message = aio_pika.Message(body, content_type=told.pop("content-type", None), headers=told)
        await self._channel.default_exchange.publish(message, self.followed.name)

    async def read(self, count: int) -> Sequence[Seen]:
        queue = await self._channel.get_queue(f"{self._name}-queue", ensure=False)
        found: list[Any] = []
        async with queue.iterator(timeout=_PATIENCE) as messages:
            async for message in messages:
                await message.ack()
                found.append(message)
                if len(found) == count:
                    break
        return [
            Seen({k: str(v) for k, v in it.headers.items()}, it.body, it.content_type)
            for it in found
        ]


class AtRedis:
    """Two streams."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self.topic = outbox.Topic(url, "shop.orders")
        self.followed = outbox.Topic(url, "shop.parcels")

    async def make(self) -> None:
        for stream in ("shop.orders", "shop.parcels"):
            await self._client.xgroup_create(stream, "theirs", "0", mkstream=True)

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self._client.xadd("shop.parcels", {"data": body, **(headers or {})})

    async def read(self, count: int) -> Sequence[Seen]:
        found: list[Seen] = []
        last = "0"
        while len(found) < count:
            answer = await self._client.xread({"shop.orders": last}, count=count, block=20_000)
            assert answer, "nothing came"
            for _, fields in answer[0][1]:
                told = {name.decode(): value for name, value in fields.items()}
                body = told.pop("data")
                headers = {name: value.decode() for name, value in told.items()}
                found.append(Seen(headers, body, headers.get("content-type")))
            last = answer[0][1][-1][0]
        return found

    async def left(self) -> int:
        """How many entries the stream has."""
        return int(await self._client.xlen("shop.parcels"))


class AtKafka:
    """Two topics of four partitions, in the mock cluster."""

    def __init__(self, kafka: MockKafka) -> None:
        self._kafka = kafka
        url = f"kafka://127.0.0.1:{kafka.way.port}"
        self._servers = {"bootstrap.servers": f"127.0.0.1:{kafka.way.port}"}
        self.topic = outbox.Topic(url, f"{kafka.prefix}.orders")
        self.followed = outbox.Topic(url, f"{kafka.prefix}.parcels")

    async def make(self) -> None:
        await self._kafka.create("orders", "parcels")

    async def make_queue(self, name: str) -> str:
        """The topic of a service's queue, which no client makes; the options of its address."""
        await self._kafka.create(name)
        return f"partitions=4&prefix={self._kafka.prefix}"

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        def produce() -> None:
            producer = Producer(self._servers)
            told: Any = [(name, it.encode()) for name, it in (headers or {}).items()]
            producer.produce(self.followed.name, body, key=b"ann", headers=told)
            assert producer.flush(_PATIENCE) == 0

        await asyncio.to_thread(produce)

    async def read(self, count: int) -> Sequence[Seen]:
        return await asyncio.to_thread(self._read, count)

    def _read(self, count: int) -> Sequence[Seen]:
        consumer = Consumer({**self._servers, "group.id": "theirs"})
        name = self.topic.name
        consumer.assign([TopicPartition(name, it, OFFSET_BEGINNING) for it in range(4)])
        found: list[Seen] = []
        while len(found) < count:
            message = consumer.poll(_PATIENCE)
            assert message is not None, "nothing came"
            assert message.error() is None, message.error()
            told: Any = message.headers()
            headers = {name: value.decode() for name, value in told}
            key: Any = message.key()
            body: Any = message.value()
            found.append(Seen(headers, body, headers.get("content-type"), key.decode()))
        consumer.close()
        return found


@asynccontextmanager
async def at_nats() -> AsyncIterator[AtNats]:
    """At a server of their own."""
    with a_nats_server() as server:
        client = await nats.connect(server.url())
        try:
            yield AtNats(client, server.url())
        finally:
            await client.close()


@asynccontextmanager
async def at_rabbit() -> AsyncIterator[AtRabbit]:
    """At the server of this process, with names of their own."""
    server = await asyncio.to_thread(shared_rabbit)
    connection = await aio_pika.connect(server.url())
    try:
        channel = await connection.channel()
        yield AtRabbit(channel, server.url(), f"shop-{os.urandom(4).hex()}")
    finally:
        await connection.close()


@asynccontextmanager
async def at_redis() -> AsyncIterator[AtRedis]:
    """At a server of their own."""
    async with a_redis() as server:
        client = Redis.from_url(server.url())
        try:
            yield AtRedis(client, server.url())
        finally:
            await client.aclose()


@asynccontextmanager
async def at_kafka() -> AsyncIterator[AtKafka]:
    """At the mock cluster of this process, with names of their own."""
    async with a_kafka() as kafka:
        yield AtKafka(kafka)


STRANGERS: Mapping[str, Callable[[], AbstractAsyncContextManager[Stranger]]] = {
    "nats": at_nats,
    "rabbitmq": at_rabbit,
    "redis": at_redis,
    "kafka": at_kafka,
}
