"""Topics at Redis: streams of others, whose entries stay.

Redis has no form of its own for headers and a body. An event is an entry with the fields `data` and
`content-type`, and in binary mode one field `ce-...` for each attribute. An entry of others is read
in the same way; one without `data` becomes a JSON object of its fields.

A group is a consumer group of the stream. A number beside it, under the prefix of the address, lets
one reader in at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from outbox.transports.brokers.broker import BrokerRefused, Packet, Taken, reading_answers
from outbox.transports.brokers.redis import RedisBroker
from outbox.transports.brokers.redis_streams.reading import RedisReading
from outbox.transports.brokers.topics.foreign import stamped
from outbox.transports.brokers.topics.port import EventPacket, Start
from outbox.transports.brokers.topics.topic import Topic

_DATA = "data"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = 946_684_800_000, 2**47  # milliseconds: the years 2000 and 6429

_OPEN = """#!lua flags=allow-oom
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2])
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
local number = redis.call('INCR', KEYS[2])
local cursor = '0-0'
repeat
    cursor = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], 'reader', 0, cursor,
        'COUNT', 1000, 'JUSTID')[1]
until cursor == '0-0'
return number
"""
_DONE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return false end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 3))
return 1
"""


class RedisTopics(RedisBroker):
    """The client of topics of the Redis at that address."""

    async def require(self, topic: Topic) -> None:
        """Look whether there is such a stream."""
        async with self._link() as link:
            if not await link.ask_one("EXISTS", topic.name):
                raise _no_stream(topic)
            await link.ask_one("XLEN", topic.name)

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        """Add them to the stream in one transaction: either all are there, or none."""
        commands: list[tuple[str | bytes | int, ...]] = [("MULTI",)]
        for packet in packets:
            fields: list[str | bytes] = [_DATA, packet.body]
            for name, text in packet.headers.items():
                fields += [name, text]
            commands.append(("XADD", topic.name, "NOMKSTREAM", "*", *fields))
        async with self._link() as link:
            added = await self._added(link, commands)
        if any(it is None for it in added):
            raise _no_stream(topic)

    async def follow(self, topic: Topic, group: str, start: Start) -> RedisReading:
        """Read the stream, on a connection of its own."""
        link = await self._connect()
        try:
            beside = f"{self._address.prefix}:topic:{topic.name}:{group}"
            reading = TopicReading(link, group, topic.name, 0, self._links)
            await reading.begin(beside, start)
        except BaseException:
            await self._forget(link)
            raise
        return reading

    async def behind(self, topic: Topic, group: str) -> int:
        """What the group has not acknowledged, where the server can tell how far it is behind."""
        async with self._link() as link:
            if not await link.ask_one("EXISTS", topic.name):
                return 0
            groups = await link.ask_one("XINFO", "GROUPS", topic.name)
        with reading_answers(self._name, sent=False):
            for each in groups:
                about = dict(zip(each[::2], each[1::2], strict=True))
                if about[b"name"] == group.encode():
                    return int(about[b"pending"]) + int(about.get(b"lag") or 0)
        return 0


class TopicReading(RedisReading):
    """The stream, by one reader of the group. Nothing is trimmed."""

    DONE = _DONE

    async def begin(self, beside: str, start: Start) -> None:
        """Become the reader, and get what the one before had taken and not done."""
        self._keys = (self._stream, f"{beside}:reader")
        first = "0" if start is Start.FIRST else "$"
        number = await self._link.run(_OPEN, self._keys, self._group, first)
        if number is None:
            raise BrokerRefused(
                f"there is no stream {self._stream}",
                next_step="start its owner, who makes it with the first entry; or correct the name",
            )
        with reading_answers(self._link.name, sent=False):
            self._number = int(number)

    def _taken(self, place: bytes, fields: Sequence[bytes]) -> Taken:
        told = {
            name.decode("utf-8", "replace"): value
            for name, value in zip(fields[::2], fields[1::2], strict=True)
        }
        body = told.pop(_DATA, None)
        texts = {name: value.decode("utf-8", "replace") for name, value in told.items()}
        if body is None:
            body = json.dumps(texts).encode()
        headers = {name.lower(): text for name, text in texts.items()}
        milliseconds = int(place.partition(b"-")[0])
        # The first part of an id is the server's time, unless its writer chose it.
        is_time = _FIRST <= milliseconds < _LAST
        at = _EPOCH + timedelta(milliseconds=milliseconds) if is_time else None
        return Taken(stamped(Packet(0, headers, body), at), place.decode())


def _no_stream(topic: Topic) -> BrokerRefused:
    return BrokerRefused(
        f"there is no stream {topic.name} at {topic.address}",
        next_step=f"let those who read it make it: XGROUP CREATE {topic.name} GROUP $ MKSTREAM; or "
        "correct the name of the topic",
    )
