"""Topics at NATS: a subject that a stream of others takes.

A group is a durable consumer of their stream. Each opening makes another one, which begins behind
what the one before had acknowledged, and then deletes that: so a reader that was taken over finds
no consumer. Its name is the group's, with a random end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg

from outbox.transports.brokers.broker import BrokerRefused, Packet
from outbox.transports.brokers.jetstream.connection import OWN, ApiError, Connection
from outbox.transports.brokers.jetstream.reading import NatsReading
from outbox.transports.brokers.jetstream.streams import OneSubject, Stream, as_told
from outbox.transports.brokers.nats import NatsBroker
from outbox.transports.brokers.topics.foreign import stamped, unquoted
from outbox.transports.brokers.topics.port import CE, EventPacket, Start
from outbox.transports.brokers.topics.topic import Topic
from outbox.wire import attributes

_NO_CONSUMER = 10014
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NatsTopics(NatsBroker):
    """The client of topics of the NATS at that address."""

    async def require(self, topic: Topic) -> None:
        """Look whether a stream has the subject."""
        await _stream_with(await self._connected(), topic.name)

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        """Publish to the subject."""
        await self.publish_at(topic.name, [_quoted(it) for it in packets])

    async def follow(self, topic: Topic, group: str, start: Start) -> NatsReading:
        """Read the subject from the stream that has it."""
        connection = await self._connected()
        stream = await _stream_with(connection, topic.name)
        await _require_kept(connection, stream)
        found = Stream(OneSubject(stream, topic.name, 1), None, takes_as_one=False)
        reading = TopicReading(connection, found, group, start)
        try:
            await reading.begin()
        except ApiError as error:
            raise as_told(error, f"a consumer {group} of {topic}") from error
        return reading

    async def behind(self, topic: Topic, group: str) -> int:
        """What the group's consumer has before it, with what is in hand."""
        connection = await self._connected()
        stream = await _stream_with(connection, topic.name)
        try:
            found = await _consumers(connection, stream, group)
        except ApiError as error:
            raise as_told(error, f"the stream {stream}") from error
        newest = max(found, key=_floor, default=None)
        return 0 if newest is None else newest["num_pending"] + newest["num_ack_pending"]


class TopicReading(NatsReading):
    """The subject, by a consumer of the group that no other reader has."""

    def __init__(self, connection: Connection, stream: Stream, group: str, start: Start) -> None:
        super().__init__(connection, stream, 0)
        self._group = group
        self._start = start
        self._name = f"{group}-{self._name.partition('-')[2]}"
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"

    async def begin(self) -> None:
        """Take the group's place over. Raises ApiError, BrokerAway and BrokerRefused."""
        before = await _consumers(self._connection, self._stream, self._group)
        floor = max((_floor(it) for it in before), default=None)
        await self._connection.api(
            f"CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject}",
            {
                "stream_name": self._stream,
                "config": self._config() | _from(floor, self._start),
                "action": "create",
            },
        )
        for each in before:
            try:
                await self._connection.api(f"CONSUMER.DELETE.{self._stream}.{each['name']}")
            except ApiError as error:
                if error.number != _NO_CONSUMER:
                    raise
        self._inbox, self._end = await self._connection.listen(self._take)
        self._connection.when_ended(self._next, self._fail)

    async def aclose(self) -> None:
        """Leave it; the consumer stays, since it has the group's position."""
        self._leave()
        if self._end is not None:
            end, self._end = self._end, None
            await end()

    def _packet(self, message: Msg) -> Packet:
        headers = {
            name.lower(): unquoted(it) if name.lower().startswith(CE) else it
            for name, it in (message.headers or {}).items()
            if not name.startswith(OWN)
        }
        return stamped(Packet(0, headers, message.data, message.subject), _stored_at(message.reply))


def _quoted(packet: Packet) -> Packet:
    headers = {
        name: attributes.quoted(it) if name.startswith(CE) else it
        for name, it in packet.headers.items()
    }
    return Packet(packet.partition, headers, packet.body, packet.key)


def _stored_at(reply: str) -> datetime:
    """When the stream has taken the message whose acknowledgement goes there."""
    parts = reply.split(".")
    nanoseconds = int(parts[-2] if len(parts) == 9 else parts[9])
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def _floor(consumer: Mapping[str, Any]) -> int:
    """The number of the last message in the stream up to which all is acknowledged."""
    begun = int(consumer["config"].get("opt_start_seq", 1)) - 1
    return max(int(consumer["ack_floor"]["stream_seq"]), begun)


def _from(floor: int | None, start: Start) -> dict[str, Any]:
    if floor is not None:
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
    return {"deliver_policy": "all" if start is Start.FIRST else "new"}


async def _stream_with(connection: Connection, subject: str) -> str:
    try:
        told = await connection.api("STREAM.NAMES", {"subject": subject})
    except ApiError as error:
        raise as_told(error, f"the streams with the subject {subject}") from error
    names = told.get("streams") or []
    if len(names) == 1:
        return str(names[0])
    raise BrokerRefused(
        f"{'no stream' if not names else 'more than one stream'} of JetStream has the subject "
        f"{subject}",
        next_step="ask its owner for a stream with it (nats stream add), or correct the name",
    )


async def _require_kept(connection: Connection, stream: str) -> None:
    """Raises BrokerRefused where the stream lets one consumer read its subject once."""
    try:
        told = await connection.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        raise as_told(error, f"the stream {stream}") from error
    if told.get("config", {}).get("retention") == "workqueue":
        raise BrokerRefused(
            f"the stream {stream} is a work queue, which takes away what one reader has read",
            next_step="ask its owner for a stream that keeps its messages, by limits or interest; "
            "or for one that has it as its source",
        )


async def _consumers(connection: Connection, stream: str, group: str) -> list[dict[str, Any]]:
    """The group's consumers; more than one where an opening was interrupted."""
    ours = re.compile(rf"{re.escape(group)}-[0-9a-f]{{16}}")
    found: list[dict[str, Any]] = []
    offset = 0
    while True:
        told = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        page = told.get("consumers") or []
        found += [it for it in page if ours.fullmatch(it["name"])]
        offset += len(page)
        if not page or offset >= int(told["total"]):
            return found
