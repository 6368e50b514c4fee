"""RabbitMQ as a broker: a quorum queue for each partition, with one active consumer.

Partition 3 of the queue `comments` is the queue `sagabox.comments.3`, bound to the exchange
`sagabox.comments` by its number. The exchange keeps the number of partitions, as the name of its
alternate exchange: RabbitMQ compares that when an exchange is declared again. There is no exchange
of that name.

All of it is declared together, when it is first needed, and after the partitions the queue
`sagabox.comments.end`, which stays empty. A server writes down where the packets of a quorum queue
are half a second after it has made the queue, or when it makes the next one; killed before, it
begins that queue anew, without the packets that it has confirmed.

The library is aiormq, on which aio-pika stands: nothing in it connects again by itself, or sends
anything later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, ClassVar

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.amqp.confirms import Fates, send_in_order
from outbox.transports.brokers.amqp.links import Connection, Link, close
from outbox.transports.brokers.amqp.troubles import told, within, words
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerFeatures,
    Packet,
    PacketRefused,
    ReadingLost,
    Taken,
)

LARGEST = 4 * 1024 * 1024
"""Bytes of a body. Servers take 16 MiB and more, and a reader has many packets in hand."""

IN_HAND = 100
"""Packets of a partition that are with its reader and not done.

It is the same for all readers of all releases: a quorum queue puts what comes back behind what came
back before and is not out again. A reader that took fewer than its predecessor had in hand, and
died too, would turn their order round."""

ANSWER_WITHIN = 5.0
"""Seconds for an answer while a partition is opened. A queue that comes back with its server may
never answer a consumer that came too soon, on a connection that is well."""

_LOOK = 0.1  # seconds between two looks whether the server still reads
_LARGEST_HEADERS = 64 * 1024  # bytes: they travel in one frame, and frames have 128 KiB
_LIMIT = "delivery-limit"


class RabbitBroker:
    """RabbitMQ 3.10 or newer, at one of the servers of the address; they are tried in turn.

    Options of the address: `ca`, `cert` and `key` are paths of PEM files, for amqps: whom to trust
    in place of the system's authorities, and the own certificate with its key.
    `delivery-limit=policy` says that a policy of the server sets the limit of deliveries to -1;
    without it the queues are declared so, at RabbitMQ 4 and newer, which would drop packets.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"ca", "cert", "key", _LIMIT})

    def __init__(self, address: BrokerAddress) -> None:
        self._address = address
        self.partitions = address.partitions
        self.features = BrokerFeatures(
            durable="on the disks of most servers of the queue", largest=LARGEST
        )
        if (limit := address.options.get(_LIMIT, "policy")) != "policy":
            raise InvalidService(
                f"{_LIMIT}={limit[:50]} in the address of {address} means nothing",
                next_step=f"leave it out, or write {_LIMIT}=policy where a policy sets it to -1",
            )
        # A server that is short of memory or disk reads nothing more from a connection that
        # publishes: what is read, and what is done, goes by another one.
        self._sending = Link(address, "sends")
        self._reading = Link(address, "reads")
        self._sender: Channel | None = None
        self._opening = asyncio.Lock()
        self._readings: set[RabbitReading] = set()

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Put them into the queue, mandatory and with confirms: all at once, but of a key one after
        the other."""
        lanes: dict[int, list[Packet]] = {}
        for packet in packets:
            require_size(packet)
            lanes.setdefault(packet.partition, []).append(packet)
        if not packets:
            return
        with told(self._address, sent=False):
            connection = await self._sending.connection()
            connection.require_read(sent=False)
            await self._declare_once(connection, queue)
            channel = await self._channel(connection)
        exchange = self._exchange(queue)
        sending = [
            asyncio.create_task(send_in_order(channel, exchange, it)) for it in lanes.values()
        ]
        fates = await self._sent(connection, sending)
        if not fates.is_good:
            # An operator may have deleted what was declared.
            connection.declared.clear()
        fates.require_good(packets)

    async def _sent(self, connection: Connection, sending: Sequence[asyncio.Task[Fates]]) -> Fates:
        """What became of all, as long as the server reads what is sent."""
        try:
            left: set[asyncio.Task[Fates]] = set(sending)
            while left:
                _, left = await asyncio.wait(left, timeout=_LOOK)
                if left:
                    connection.require_read(sent=True)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        return Fates.of(task.result() for task in sending)

    async def open(self, queue: str, partition: int) -> RabbitReading:
        """Read a partition. Another reader keeps it until it leaves or its connection ends; until
        then this one gets nothing."""
        with told(self._address, sent=False):
            connection = await self._reading.connection()
            try:
                return await self._opened(connection, queue, partition)
            except ChannelNotFoundEntity:
                # An operator has deleted it since: all is made again, and in its order.
                connection.declared.discard(queue)
                return await self._opened(connection, queue, partition)

    async def waiting(self, queue: str) -> int:
        """The number of packets that are not done, without those that another process has in hand:
        at most 100 of each partition."""
        with told(self._address, sent=False):
            connection = await self._reading.connection()
            ready = await self._declare(connection, queue)
        return ready + sum(it.in_hand for it in self._readings if it.queue == queue)

    async def aclose(self) -> None:
        """Close the connections."""
        await asyncio.gather(self._sending.aclose(), self._reading.aclose())

    def forget(self, reading: RabbitReading) -> None:
        """It is closed."""
        self._readings.discard(reading)

    @property
    def address(self) -> BrokerAddress:
        """Where it is."""
        return self._address

    def _exchange(self, queue: str) -> str:
        return f"{self._address.prefix}.{queue}"

    def _queue(self, queue: str, partition: int) -> str:
        return f"{self._address.prefix}.{queue}.{partition}"

    @staticmethod
    def _in_time() -> AbstractAsyncContextManager[None]:
        """Raises TimeoutError, with words, where an answer does not come in time."""
        return within(ANSWER_WITHIN)

    async def _opened(self, connection: Connection, queue: str, partition: int) -> RabbitReading:
        async with self._in_time():
            await self._declare_once(connection, queue)
            channel = await connection.opened()
        reading = RabbitReading(self, queue, partition, channel)
        self._readings.add(reading)
        try:
            async with self._in_time():
                await reading.begin(self._queue(queue, partition))
        except BaseException:
            await reading.aclose()
            raise
        return reading

    async def _channel(self, connection: Connection) -> Channel:
        """The one on which all is published."""
        async with self._opening:
            channel = self._sender
            if channel is None or channel.is_closed or channel.connection is not connection:
                channel = self._sender = await connection.opened(confirms=True)
            return channel

    async def _declare_once(self, connection: Connection, queue: str) -> None:
        """Declare all of it, unless this connection has."""
        if queue in connection.declared:
            return
        async with connection.declaring[queue]:
            if queue not in connection.declared:
                await self._declare(connection, queue)
                connection.declared.add(queue)

    async def _declare(self, connection: Connection, queue: str) -> int:
        """The number of packets in it that no reader has."""
        ready, exchange = 0, self._exchange(queue)
        arguments = queue_arguments(
            str(connection.server_properties.get("version", "")),
            has_policy=_LIMIT in self._address.options,
        )
        async with connection.for_a_while() as channel:
            await channel.exchange_declare(
                exchange,
                durable=True,
                arguments={"alternate-exchange": f"{exchange}.of-{self.partitions}"},
            )
            for partition in range(self.partitions):
                name = self._queue(queue, partition)
                declared = await channel.queue_declare(name, durable=True, arguments=arguments)
                ready += declared.message_count or 0
                await channel.queue_bind(name, exchange, str(partition))
            await channel.queue_declare(f"{exchange}.end", durable=True, arguments=arguments)
        return ready


class RabbitReading:
    """One partition, by a channel of its own: when that is closed, the server puts all that is not
    done back in its order."""

    def __init__(self, broker: RabbitBroker, queue: str, partition: int, channel: Channel) -> None:
        self.queue = queue
        self._broker = broker
        self._partition = partition
        self._channel = channel
        self._last = 0
        self._ready: deque[tuple[int, Packet]] = deque()
        self._given: deque[int] = deque()
        self._changed = asyncio.Event()
        self._away: str | None = None
        self._lost: str | None = None
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        channel.closing.add_done_callback(self._closed)

    @property
    def in_hand(self) -> int:
        """The packets that came and are not done."""
        return len(self._ready) + len(self._given)

    async def begin(self, name: str) -> None:
        """Let the packets of that queue come. Raises what the library raises."""
        await self._channel.basic_qos(prefetch_count=IN_HAND)
        await self._channel.basic_consume(name, self._take)

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """What follows; nothing as long as another reader has the partition."""
        self._require()
        if not self._ready:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            self._require()
        found: list[Taken] = []
        while self._ready and len(found) < most:
            tag, packet = self._ready.popleft()
            self._given.append(tag)
            found.append(Taken(packet, str(tag)))
        return tuple(found)

    async def done(self, count: int) -> None:
        """The server is told, and does not answer: where it dies just then, some come again."""
        self._require()
        if count:
            with told(self._broker.address, sent=True):
                await self._channel.basic_ack(self._given[count - 1], multiple=True)
        for _ in range(count):
            self._given.popleft()

    async def aclose(self) -> None:
        """Close the channel, and with it the consumer."""
        self._broker.forget(self)
        self._away = self._away or "the reading is closed"
        await close(self._channel)

    async def _take(self, message: DeliveredMessage) -> None:
        assert isinstance(message.delivery, Basic.Deliver)
        tag = message.delivery.delivery_tag or 0
        if tag != self._last + 1:
            self._lost = f"packet {tag} came after packet {self._last}"
        self._last = tag
        self._ready.append((tag, self._packet(message)))
        self._changed.set()

    def _packet(self, message: DeliveredMessage) -> Packet:
        headers = message.header.properties.headers or {}
        texts = {name.lower(): str(it) for name, it in headers.items()}
        return Packet(self._partition, texts, message.body)

    def _require(self) -> None:
        if self._lost is not None:
            raise ReadingLost(self._lost)
        if self._away is not None:
            raise BrokerAway(self._away, sent=False)

    def _cancelled(self, _: object) -> None:
        self._lost = "the server has taken the partition away"
        self._changed.set()

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._away = self._away or words(error)
        self._changed.set()


def queue_arguments(version: str, *, has_policy: bool = False) -> dict[str, Any]:
    """How a server of that version is told to make a partition. From RabbitMQ 4 on a quorum queue
    drops what came 20 times, unless its limit is -1; older ones know no such limit."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    major = version.partition(".")[0]
    if major.isdigit() and int(major) >= 4 and not has_policy:
        arguments["x-delivery-limit"] = -1
    return arguments


def require_size(packet: Packet) -> None:
    """Raises PacketRefused where a packet is larger than any server should be given."""
    if len(packet.body) > LARGEST:
        raise PacketRefused(f"{len(packet.body)} bytes are more than the {LARGEST} of a packet")
    size = sum(len(name) + len(it) for name, it in packet.headers.items())
    if size > _LARGEST_HEADERS:
        raise PacketRefused(f"{size} bytes of headers are more than {_LARGEST_HEADERS}")
