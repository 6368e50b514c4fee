"""What the client libraries do by themselves: batches that are published and confirmed.

The bodies and the queues are like those of the library's own transport, and so is the durability.
Each takes a batch as its own documentation does it in bulk: all of it is sent, then all of it is
confirmed. No signature, no headers, no order of a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from outbox.transports.brokers.address import BrokerAddress

Bodies = Sequence[tuple[int, bytes]]
"""Each with the number of its partition."""
Publisher = Callable[[Bodies], Awaitable[None]]
"""Returns when the broker has confirmed all of the batch."""

QUEUE = "alone"


@asynccontextmanager
async def by_nats(address: str) -> AsyncIterator[Publisher]:
    """nats-py: `publish_async` of JetStream, into a work queue in files."""
    import nats
    from nats.js.api import RetentionPolicy, StorageType

    parsed = BrokerAddress.parse(address)
    host, port = parsed.servers[0]
    client = await nats.connect(f"nats://{host}:{port}")
    jetstream = client.jetstream()
    subjects = [f"{parsed.prefix}.{QUEUE}.{it}" for it in range(parsed.partitions)]
    await jetstream.add_stream(
        name=f"{parsed.prefix}_{QUEUE}",
        subjects=subjects,
        storage=StorageType.FILE,
        retention=RetentionPolicy.WORK_QUEUE,
    )

    async def publish(bodies: Bodies) -> None:
        answers = [
            await jetstream.publish_async(subjects[partition], body) for partition, body in bodies
        ]
        await asyncio.gather(*answers)

    try:
        yield publish
    finally:
        await client.close()


@asynccontextmanager
async def by_aio_pika(address: str) -> AsyncIterator[Publisher]:
    """aio-pika: persistent and mandatory messages with confirms, into quorum queues."""
    import aio_pika

    parsed = BrokerAddress.parse(address)
    connection = await aio_pika.connect(address.partition("?")[0])
    channel = await connection.channel(publisher_confirms=True)
    names = [f"{parsed.prefix}.{QUEUE}.{it}" for it in range(parsed.partitions)]
    for name in names:
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    exchange = channel.default_exchange

    async def publish(bodies: Bodies) -> None:
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT),
                    names[partition],
                )
                for partition, body in bodies
            )
        )

    try:
        yield publish
    finally:
        await connection.close()


@asynccontextmanager
async def by_redis(address: str) -> AsyncIterator[Publisher]:
    """redis-py: a pipeline of XADD."""
    from redis.asyncio import Redis

    parsed = BrokerAddress.parse(address)
    client = Redis.from_url(address.partition("?")[0])
    streams = [f"{parsed.prefix}:{QUEUE}:{it}" for it in range(parsed.partitions)]

    async def publish(bodies: Bodies) -> None:
        pipeline = client.pipeline(transaction=False)
        for partition, body in bodies:
            pipeline.xadd(streams[partition], {"body": body})
        await pipeline.execute()

    try:
        yield publish
    finally:
        await client.aclose()


@asynccontextmanager
async def by_aiokafka(address: str) -> AsyncIterator[Publisher]:
    """aiokafka: `send` with acks of all replicas, which gathers batches by itself."""
    from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]  # it ships no types

    parsed = BrokerAddress.parse(address)
    host, port = parsed.servers[0]
    producer = AIOKafkaProducer(bootstrap_servers=f"{host}:{port}", acks="all")
    topic = f"{parsed.prefix}.{QUEUE}"
    await producer.start()

    async def publish(bodies: Bodies) -> None:
        answers = [
            await producer.send(topic, body, partition=partition) for partition, body in bodies
        ]
        await asyncio.gather(*answers)

    try:
        yield publish
    finally:
        await producer.stop()
