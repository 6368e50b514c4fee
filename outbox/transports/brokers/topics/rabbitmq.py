"""Topics at RabbitMQ: events go to an exchange of others; what is followed is a queue of theirs.

Nothing is declared. A reader is the only one of its queue, as long as its connection lasts; what it
has not acknowledged goes back to its place when that ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity
from pamqp.commands import Basic, Queue

from outbox.transports.brokers.amqp.confirms import PERSISTENT, Fates, send_in_order
from outbox.transports.brokers.amqp.links import Connection
from outbox.transports.brokers.amqp.troubles import told, words
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, Packet
from outbox.transports.brokers.rabbitmq import IN_HAND, RabbitBroker, RabbitReading, require_size
from outbox.transports.brokers.topics.foreign import stamped
from outbox.transports.brokers.topics.port import CE, EventPacket, Start, TakenInPart
from outbox.transports.brokers.topics.topic import Topic

_SET_BY_SERVER = "timestamp_in_ms"
_LAST = 2**47  # milliseconds: the year 6429
_NOT_FOUND, _NO_RIGHT = "NOT_FOUND", "ACCESS_REFUSED"
_OF_STREAM = "x-stream-offset"
_TO_A_KEY = "access to topic"
"""What is refused where a right to an exchange is for some routing keys alone."""


class RabbitTopics(RabbitBroker):
    """The client of topics of the RabbitMQ at that address."""

    async def require(self, topic: Topic) -> None:
        """Look whether there is such an exchange; with the default one, such a queue."""
        with told(self.address, sent=False):
            connection = await self._reading.connection()
            async with self._in_time():
                if not topic.name:
                    await self._require_queue(connection, topic.routing_key or "")
                    return
                try:
                    async with connection.for_a_while() as channel:
                        await channel.exchange_declare(topic.name, passive=True)
                except ChannelNotFoundEntity as error:
                    raise _no_exchange(topic) from error

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        """Publish them at the exchange, mandatory and with confirms; of a key one after the
        other."""
        for packet in packets:
            require_size(packet)
        with told(self.address, sent=False):
            connection = await self._sending.connection()
            connection.require_read(sent=False)
            channel = await self._channel(connection)
        lanes: dict[str, list[int]] = {}
        for place, packet in enumerate(packets):
            lanes.setdefault(packet.key, []).append(place)
        taken: list[int] = []
        sending = [
            asyncio.create_task(_send(channel, topic, packets, it, taken)) for it in lanes.values()
        ]
        fates = await self._sent(connection, sending)
        if _refusal(fates, _TO_A_KEY):
            fates = await self._one_by_one(connection, topic, packets, lanes.values(), taken)
        refused = _refused(fates, topic)
        if refused is None and (fates.unknown or fates.refused or not fates.returned):
            fates.require_good(packets)
            return
        if refused is None:
            unrouted = next(it for it in range(len(packets)) if it not in taken)
            refused = BrokerRefused(
                f"{topic} has no queue for the routing key "
                f"{_key_of(packets[unrouted], topic.routing_key)!r}, so the event would be lost",
                next_step="ask its owner to bind a queue there, or correct routing-key",
            )
        if taken:
            raise TakenInPart(str(refused), taken)
        raise refused

    async def _one_by_one(
        self,
        connection: Connection,
        topic: Topic,
        packets: Sequence[EventPacket],
        lanes: Collection[Sequence[int]],
        taken: list[int],
    ) -> Fates:
        """Send what is not known to be taken, a key after the other. One that is refused ends the
        channel, and what the server would have said of others: they would be sent for ever."""
        total = Fates()
        for lane in lanes:
            if left := [it for it in lane if it not in taken]:
                with told(self.address, sent=True):
                    channel = await self._channel(connection)
                sending = asyncio.create_task(_send(channel, topic, packets, left, taken))
                total = Fates.of([total, await self._sent(connection, [sending])])
        return total

    async def follow(self, topic: Topic, group: str, start: Start) -> RabbitReading:
        """Read the queue. No other client may read it meanwhile. RabbitMQ has one position for all
        readers of a queue, at its first message."""
        with told(self.address, sent=False):
            connection = await self._reading.connection()
            # A quorum queue does not mind that a reader asks to be the only one.
            async with self._in_time():
                queue = await self._require_queue(connection, topic.name)
            if queue.consumer_count:
                raise BrokerAway(f"another client reads the queue {topic.name}", sent=False)
            try:
                return await self._begun(connection, topic, exclusive=True)
            except ChannelAccessRefused:
                # A queue with a single active consumer lets one in at a time by itself.
                try:
                    return await self._begun(connection, topic, exclusive=False)
                except ChannelAccessRefused as error:
                    raise _lacks_a_right(error, f"read {topic.name}") from error

    async def behind(self, topic: Topic, group: str) -> int:
        """What is in the queue, without what another process has in hand."""
        with told(self.address, sent=False):
            connection = await self._reading.connection()
            return (await self._require_queue(connection, topic.name)).message_count or 0

    async def _begun(
        self, connection: Connection, topic: Topic, *, exclusive: bool
    ) -> RabbitReading:
        async with self._in_time():
            channel = await connection.opened()
        reading = TopicReading(self, topic.name, 0, channel, exclusive=exclusive)
        try:
            async with self._in_time():
                await reading.begin(topic.name)
        except BaseException:
            await reading.aclose()
            raise
        return reading

    async def _require_queue(self, connection: Connection, name: str) -> Queue.DeclareOk:
        try:
            async with connection.for_a_while() as channel:
                return await channel.queue_declare(name, passive=True)
        except ChannelNotFoundEntity as error:
            raise BrokerRefused(
                f"there is no queue {name} at {self.address}",
                next_step="declare it, bound to the exchange of the others; or correct the name",
            ) from error


class TopicReading(RabbitReading):
    """The queue, by the only one that may read it."""

    def __init__(
        self, broker: RabbitTopics, queue: str, partition: int, channel: Channel, *, exclusive: bool
    ) -> None:
        super().__init__(broker, queue, partition, channel)
        self._exclusive = exclusive

    async def begin(self, name: str) -> None:
        """Let the messages of that queue come. Raises what the library raises."""
        await self._channel.basic_qos(prefetch_count=IN_HAND)
        await self._channel.basic_consume(name, self._take, exclusive=self._exclusive)

    async def _take(self, message: DeliveredMessage) -> None:
        if _OF_STREAM in (message.header.properties.headers or {}):
            self._away = "a stream of RabbitMQ keeps no position for a reader: follow a queue"
            self._changed.set()
            return
        await super()._take(message)

    def _packet(self, message: DeliveredMessage) -> Packet:
        properties = message.header.properties
        told = properties.headers or {}
        headers = {name.lower(): _text(it) for name, it in told.items()}
        for name, value in (
            ("content-type", properties.content_type),
            ("message-id", properties.message_id),
            ("correlation-id", properties.correlation_id),
            ("type", properties.message_type),
            ("app-id", properties.app_id),
        ):
            if value is not None:
                headers.setdefault(name, value)
        assert isinstance(message.delivery, Basic.Deliver)
        key = message.delivery.routing_key or ""
        return stamped(Packet(0, headers, message.body, key), _taken_at(told))


def _refusal(fates: Fates, what: str) -> BaseException | None:
    """The error that says so, if there is one."""
    return next((it for it in fates.unknown if it is not None and what in words(it)), None)


def _refused(fates: Fates, topic: Topic) -> BrokerRefused | None:
    """What the server refuses; None where it may have more than is known."""
    if _refusal(fates, _NOT_FOUND):
        return _no_exchange(topic)
    error = _refusal(fates, _NO_RIGHT)
    if error is None or not all(_NO_RIGHT in words(it) for it in fates.unknown):
        return None
    return _lacks_a_right(error, f"write to {topic.name or 'amq.default'}")


def _no_exchange(topic: Topic) -> BrokerRefused:
    return BrokerRefused(
        f"there is no exchange for {topic}",
        next_step="ask its owner to declare it, or correct the name of the topic",
    )


def _lacks_a_right(error: BaseException, right: str) -> BrokerRefused:
    text = " ".join(map(str, error.args))
    is_to_key = _TO_A_KEY in text
    return BrokerRefused(
        f"RabbitMQ refuses: {text}",
        next_step=f"let the user {right}{' with that routing key' * is_to_key} with "
        f"`rabbitmqctl set_{'topic_' * is_to_key}permissions`",
    )


async def _send(
    channel: Channel,
    topic: Topic,
    packets: Sequence[EventPacket],
    places: Sequence[int],
    taken: list[int],
) -> Fates:
    """Send the packets at these places, which have one key; note the places of those taken."""
    total = Fates()
    for place in places:
        publish = partial(_publish, _key_of(packets[place], topic.routing_key))
        fates = await send_in_order(channel, topic.name, [packets[place]], publish)
        total = Fates.of([total, fates])
        if not fates.is_good:
            break
        taken.append(place)
    return total


def _key_of(packet: EventPacket, routing_key: str | None) -> str:
    return packet.type if routing_key is None else routing_key


async def _publish(routing_key: str, channel: Channel, exchange: str, it: Packet) -> None:
    await channel.basic_publish(
        it.body,
        exchange=exchange,
        routing_key=routing_key,
        mandatory=True,
        wait=False,
        properties=Basic.Properties(
            content_type=it.headers["content-type"],
            headers={name: text for name, text in it.headers.items() if name.startswith(CE)},
            delivery_mode=PERSISTENT,
        ),
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _taken_at(headers: Any) -> datetime | None:
    """When the server took it, where it is set to tell. The time that a sender gives is no help:
    its clock is another one."""
    stamp = headers.get(_SET_BY_SERVER)
    if not isinstance(stamp, int) or not 0 <= stamp < _LAST:
        return None
    return datetime.fromtimestamp(stamp / 1000, UTC)
