"""The lines of the contract of transports through brokers: a transport, a broker, and a reader of
each partition."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from outbox.clock import SystemClock
from outbox.testing.transport_contract import Confirms, Features, Line, Order, Receive, Settled
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import Broker, Packet
from outbox.transports.brokers.kafka import KafkaBroker
from outbox.transports.brokers.kafka_records.batches import LARGEST as LARGEST_OF_KAFKA
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.partition_reader import PartitionReader
from outbox.transports.brokers.rabbitmq import LARGEST as RABBIT_LARGEST
from outbox.transports.brokers.rabbitmq import RabbitBroker
from outbox.transports.brokers.redis import RedisBroker
from outbox.transports.brokers.transport import BrokerTransport
from outbox.transports.http.signing import Keyring
from tests.support.brokers.kafka_mock import a_kafka
from tests.support.brokers.nats_server import a_nats_server
from tests.support.brokers.rabbitmq_server import shared_rabbit
from tests.support.brokers.redis_server import a_redis, in_a_thread
from tests.support.faults.network import Weather, Wire, wire
from tests.support.outbox.memory_broker import LARGEST, MemoryBroker, MemoryServer

_CLOCK = SystemClock()
_KEYS = Keyring({"now": os.urandom(32)}, "now")
QUEUE = "comments"

Act = Callable[[], Awaitable[None]]


@asynccontextmanager
async def line_of(
    broker: Broker,
    reading: Broker,
    receive: Receive,
    *,
    timeout: float,
    settled: Settled | None,
    cut: Act,
    silence: Act,
    restore: Act,
) -> AsyncIterator[Line]:
    """A line through a broker: `broker` sends, and `reading` is another client of the same server,
    of which all partitions are read."""
    stop = asyncio.Event()
    transport = BrokerTransport(
        broker, to=QUEUE, keys=_KEYS, clock=_CLOCK, settled=settled, timeout=timeout
    )
    readers = [
        asyncio.create_task(PartitionReader(reading, QUEUE, partition, receive, _KEYS).run(stop))
        for partition in range(reading.partitions)
    ]
    try:
        yield Line(transport=transport, cut=cut, silence=silence, restore=restore)
    finally:
        stop.set()
        await transport.aclose()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await reading.aclose()


@asynccontextmanager
async def by_memory_broker(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """Through a `MemoryBroker`."""
    server = MemoryServer()
    async with line_of(
        MemoryBroker(server),
        MemoryBroker(server),
        receive,
        timeout=timeout,
        settled=settled,
        cut=server.cut,
        silence=server.silence,
        restore=server.restore,
    ) as line:
        yield line


@asynccontextmanager
async def by_nats(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """Through a NATS server with JetStream, which is killed and frozen."""
    # A server that is killed loses nothing of what the system has, synchronised or not.
    with a_nats_server(jetstream="") as server:
        address = server.url("partitions=4")
        sending = broker_at(address)
        # Connected, with the stream made, which is done once for ever.
        await sending.publish(QUEUE, ())
        async with line_of(
            sending,
            broker_at(address),
            receive,
            timeout=timeout,
            settled=settled,
            cut=server.cut,
            silence=server.silence,
            restore=server.restore,
        ) as line:
            yield line


@asynccontextmanager
async def by_redis(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """Through a Redis of its own, which is cut by SIGKILL and silenced by SIGSTOP."""
    async with a_redis() as server:
        address = BrokerAddress.parse(server.url(query="partitions=4"))
        async with line_of(
            RedisBroker(address),
            RedisBroker(address),
            receive,
            timeout=timeout,
            settled=settled,
            cut=in_a_thread(server.kill),
            silence=in_a_thread(server.freeze),
            restore=in_a_thread(server.restore),
        ) as line:
            yield line


@asynccontextmanager
async def by_rabbitmq(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """Through RabbitMQ, over a wire that can be cut and silent."""
    server = await asyncio.to_thread(shared_rabbit)
    async with wire(server.url()) as air:
        options = f"partitions=4&prefix=line-{os.urandom(6).hex()}"
        address = BrokerAddress.parse(f"amqp://127.0.0.1:{air.port}?{options}")
        sending, reading = RabbitBroker(address), RabbitBroker(address)
        # Up and connected, with all that is declared once for ever.
        await reading.waiting(QUEUE)
        await sending.publish("beside", [Packet(0, {}, b"")])
        async with line_of(
            sending,
            reading,
            receive,
            timeout=timeout,
            settled=settled,
            cut=becoming(air, Weather.PARTED),
            silence=becoming(air, Weather.SILENT),
            restore=becoming(air, Weather.FAIR),
        ) as line:
            yield line


def becoming(air: Wire, weather: Weather) -> Act:
    """Lets the weather on the wire become like this."""

    async def become() -> None:
        air.become(weather)

    return become


MEMORY_BROKER = Features(
    confirms=Confirms.BY_ACCEPTING,
    order=Order.OF_A_KEY,
    largest=LARGEST - 4096,
    tells_when_nothing_left=True,
    carries_statements=True,
)
RABBITMQ = Features(
    confirms=Confirms.BY_ACCEPTING,
    order=Order.OF_A_KEY,
    largest=RABBIT_LARGEST - 4096,
    tells_when_nothing_left=True,
    carries_statements=True,
)
NATS = Features(
    confirms=Confirms.BY_ACCEPTING,
    order=Order.OF_A_KEY,
    largest=LARGEST - 8192,
    tells_when_nothing_left=True,
    carries_statements=True,
)
REDIS = Features(
    confirms=Confirms.BY_ACCEPTING,
    order=Order.OF_A_KEY,
    tells_when_nothing_left=True,
    carries_statements=True,
)


@asynccontextmanager
async def by_kafka(
    receive: Receive, *, timeout: float, settled: Settled | None
) -> AsyncIterator[Line]:
    """Through the mock cluster. It forgets all when it dies, so that the way to it is what
    is cut: that its disk survives is not shown."""
    async with a_kafka([QUEUE]) as kafka:
        address = BrokerAddress.parse(kafka.url())
        async with line_of(
            KafkaBroker(address),
            # The mock answers no fetch before its wait is over.
            KafkaBroker(address, longest_fetch=0.1),
            receive,
            timeout=timeout,
            settled=settled,
            cut=kafka.way.cut,
            silence=kafka.way.silence,
            restore=kafka.way.open,
        ) as line:
            yield line


KAFKA = Features(
    confirms=Confirms.BY_ACCEPTING,
    order=Order.OF_A_KEY,
    largest=LARGEST_OF_KAFKA - 4096,
    tells_when_nothing_left=True,
    carries_statements=True,
)
