"""Topics at Kafka: an event goes to the partition that Kafka's own clients choose for its key.

A group follows all partitions of a topic in one reading. Its offsets are committed for each
partition, beside the name of the reader, as for a queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # it ships no types
from aiokafka.partitioner import murmur2  # type: ignore[import-untyped]  # it ships no types

from outbox.transports.brokers.broker import BrokerRefused, Packet, Reading, Taken
from outbox.transports.brokers.kafka import KafkaBroker
from outbox.transports.brokers.kafka_records.reading import KafkaReading
from outbox.transports.brokers.kafka_records.troubles import FAILURES
from outbox.transports.brokers.topics.foreign import stamped
from outbox.transports.brokers.topics.port import CE, EventPacket, Start
from outbox.transports.brokers.topics.topic import Topic

_EARLIEST, _LATEST = -2, -1
_BY_SERVER = 1
"""A record has the server's time, not its producer's (message.timestamp.type=LogAppendTime)."""


class KafkaTopics(KafkaBroker):
    """The client of topics of the Kafka at that address."""

    _group = ""

    def group_of(self, topic: str) -> str:
        """The group that follows the topic."""
        return self._group

    async def require(self, topic: Topic) -> None:
        """Look whether there is such a topic."""
        await self._partitions(topic)

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        """Produce them; the order key is the record's key."""
        number = len(await self._partitions(topic))
        await self.publish(topic.name, [_record(it, number) for it in packets])

    async def follow(self, topic: Topic, group: str, start: Start) -> Reading:
        """Read all of its partitions."""
        self._group = group
        reading = TopicReading(
            [PartReading(self, topic.name, it, start) for it in await self._partitions(topic)]
        )
        try:
            await reading.begin()
        except BaseException:
            await reading.aclose()
            raise
        return reading

    async def behind(self, topic: Topic, group: str) -> int:
        """How far the group is behind the ends of the partitions."""
        self._group = group
        partitions = await self._partitions(topic)
        done = await self.committed(topic.name, partitions)
        first = await self.offsets(topic.name, partitions, _EARLIEST)
        last = await self.offsets(topic.name, partitions, _LATEST)
        return sum(last[it] - max(first[it], done[it][0]) for it in partitions)

    async def _partitions(self, topic: Topic) -> list[int]:
        client = await self._connected()
        await self._require_topic(client, topic.name)
        return sorted(client.cluster.partitions_for_topic(topic.name))

    async def _require_topic(self, client: AIOKafkaClient, queue: str) -> str:
        """The name is the topic's own, and any number of partitions will do."""
        if queue in self._known_topics:
            return queue
        try:
            client.cluster = await client.fetch_all_metadata()
        except FAILURES as error:
            await self._give_up(client)
            raise self.trouble(error, sent=False) from error
        if not client.cluster.partitions_for_topic(queue):
            raise BrokerRefused(
                f"{self._name} has no topic {queue} that this user may see",
                next_step="ask its owner to create it, or for the right to it; or correct the name",
            )
        self._known_topics.add(queue)
        return queue


class PartReading(KafkaReading):
    """The reading of one partition of a topic of others."""

    def __init__(self, broker: KafkaTopics, topic: str, partition: int, start: Start) -> None:
        super().__init__(broker, topic, partition)
        self._start = start

    async def take_over(self) -> None:
        """Begin where the group stands, and without a position at the start."""
        partitions = [self._partition]
        done, _ = (await self._broker.committed(self._topic, partitions))[self._partition]
        if done < 0 and self._start is Start.NEW:
            last = await self._broker.offsets(self._topic, partitions, _LATEST)
            offset = last[self._partition]
            await self._broker.commit(self._topic, self._partition, offset, self._name)
        await super().take_over()

    def _taken(self, record: Any) -> Taken:
        headers: dict[str, str] = {}
        for name, value in record.headers:
            lowered = name.lower()
            if lowered.startswith("ce_"):
                lowered = f"{CE}{lowered[3:]}"
            headers[lowered] = (value or b"").decode("utf-8", "replace")
        key = (record.key or b"").decode("utf-8", "replace")
        is_told = record.timestamp_type == _BY_SERVER
        at = datetime.fromtimestamp(record.timestamp / 1000, UTC) if is_told else None
        packet = Packet(self._partition, headers, record.value or b"", key)
        return Taken(stamped(packet, at), str(record.offset))


class TopicReading:
    """The reading of all partitions: what comes in one of them is given, in its order."""

    def __init__(self, parts: Sequence[PartReading]) -> None:
        self._parts = parts
        self._asked: dict[asyncio.Task[Sequence[Taken]], PartReading] = {}
        self._given: deque[tuple[PartReading, int]] = deque()

    async def begin(self) -> None:
        """Become the reader of each. Where one fails, none of the others goes on: it would take
        its partition from the next reading."""
        taking = [asyncio.create_task(it.take_over()) for it in self._parts]
        try:
            await asyncio.gather(*taking)
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """What has come in the first partition that has something. A partition that is asked stays
        asked, and what it answers later is given then."""
        busy = {*self._asked.values()}
        for part in self._parts:
            if part not in busy:
                self._asked[asyncio.create_task(part.next(most, wait))] = part
        until = asyncio.get_running_loop().time() + wait
        while True:
            left = until - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait(
                self._asked, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                part, taken = self._asked[task], task.result()
                del self._asked[task]
                if taken:
                    self._given.append((part, len(taken)))
                    return taken
            if not done or not self._asked:
                return ()

    async def done(self, count: int) -> None:
        """Commit the offsets of the partitions that they came from."""
        while count > 0 and self._given:
            part, given = self._given.popleft()
            await part.done(min(count, given))
            if given > count:
                self._given.appendleft((part, given - count))
            count -= given

    async def aclose(self) -> None:
        """Leave all."""
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        self._asked.clear()
        await asyncio.gather(*(it.aclose() for it in self._parts))


def _record(packet: EventPacket, partitions: int) -> Packet:
    headers = {
        f"ce_{name.removeprefix(CE)}" if name.startswith(CE) else name: text
        for name, text in packet.headers.items()
    }
    # As Kafka's own clients choose it, so that an event is where they look for its key.
    partition = (murmur2(packet.key.encode()) & 0x7FFFFFFF) % partitions
    return Packet(partition, headers, packet.body, packet.key)
