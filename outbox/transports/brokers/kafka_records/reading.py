"""A reading of a partition: the one whose name stands beside the offset."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition, errors  # type: ignore[import-untyped]  # it ships no types
from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # it ships no types
from aiokafka.protocol.fetch import FetchRequest  # type: ignore[import-untyped]  # no types
from aiokafka.record.memory_records import (  # type: ignore[import-untyped]  # it ships no types
    MemoryRecords,
)

from outbox.transports.brokers.broker import BrokerAway, Packet, ReadingLost, Taken
from outbox.transports.brokers.kafka_records.batches import LARGEST
from outbox.transports.brokers.kafka_records.client import closed
from outbox.transports.brokers.kafka_records.troubles import FAILURES

if TYPE_CHECKING:
    from outbox.transports.brokers.kafka import KafkaBroker

log = logging.getLogger("outbox.brokers")

COMMIT_AGAIN = 3600.0
"""Seconds after which a position is committed again, so that Kafka does not forget that of a
partition that nothing comes to (offsets.retention.minutes)."""
EARLIEST, LATEST = -2, -1
"""What stands for the first and the next offset of a partition."""


class KafkaReading:
    """The reading of one partition."""

    def __init__(self, broker: KafkaBroker, topic: str, partition: int) -> None:
        self._broker = broker
        self._topic = topic
        self._partition = partition
        self._name = secrets.token_hex(8)
        self._client: AIOKafkaClient | None = None
        self._offset = 0
        """The next one to be asked for."""
        self._fetched: deque[Taken] = deque()
        self._given: deque[int] = deque()
        self._committed_at = 0.0

    async def take_over(self) -> None:
        """Write its name beside the offset, and begin there."""
        partitions = [self._partition]
        done, _ = (await self._broker.committed(self._topic, partitions))[self._partition]
        first = (await self._broker.offsets(self._topic, partitions, EARLIEST))[self._partition]
        last = (await self._broker.offsets(self._topic, partitions, LATEST))[self._partition]
        if done > last:
            log.error(
                "partition %d of %s ends at %d, and was done up to %d: Kafka has lost packets. It "
                "is read from its beginning, and the inbox knows what it had",
                self._partition,
                self._topic,
                last,
                done,
            )
            done = first
        if 0 <= done < first:
            log.error(
                "%d packets of partition %d of %s were deleted before they were read: let "
                "retention.ms and retention.bytes of the topic be -1",
                first - done,
                self._partition,
                self._topic,
            )
        self._offset = max(first, done)
        await self._commit(self._offset)
        self._client = await self._broker.new_client()

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """The next ones. A reader that was taken over learns it at the latest after `wait`."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        while not self._fetched:
            left = until - clock()
            await self._fetch(max(0.0, min(left, self._broker.longest_fetch)))
            if left <= 0:
                break
        await self._require_still_there()
        taken = [self._fetched.popleft() for _ in range(min(most, len(self._fetched)))]
        self._given += [int(it.position) for it in taken]
        return taken

    async def done(self, count: int) -> None:
        """Commit the offset that follows them."""
        count = min(count, len(self._given))
        if count == 0:
            return
        await self._require_still_there()
        offset = self._given[count - 1] + 1
        await self._commit(offset)
        for _ in range(count):
            self._given.popleft()

    async def aclose(self) -> None:
        """Close its connections."""
        self._broker.forget(self)
        client, self._client = self._client, None
        if client is not None:
            await closed(client)

    async def _fetch(self, wait: float) -> None:
        client = self._client
        if client is None:
            raise BrokerAway("the reading is closed", sent=False)
        node = client.cluster.leader_for_partition(TopicPartition(self._topic, self._partition))
        wanted = (self._partition, self._offset, 2 * LARGEST)
        request = FetchRequest(int(wait * 1000), 1, 2 * LARGEST, 0, [(self._topic, [wanted])])
        try:
            if node is None or node < 0:
                raise errors.LeaderNotAvailableError
            answer = await client.send(node, request)
            for _, partitions in answer.topics:
                for _, code, _, *_, records in partitions:
                    kind = errors.for_code(code)
                    if kind is not errors.NoError:
                        raise kind
                    self._keep(records)
        except errors.OffsetOutOfRangeError as error:
            raise BrokerAway(f"{self._topic} has deleted what was to come", sent=False) from error
        except FAILURES as error:
            raise self._broker.trouble(error, sent=False) from error

    def _keep(self, records: bytes) -> None:
        found = MemoryRecords(records)
        while found.has_next():
            batch = found.next_batch()
            if not batch.validate_crc():
                raise errors.CorruptRecordException
            if not batch.is_control_batch:
                # A batch begins where it was written, which may be before the offset.
                self._fetched += [self._taken(it) for it in batch if it.offset >= self._offset]
            self._offset = max(self._offset, batch.next_offset)

    async def _require_still_there(self) -> None:
        found = await self._broker.committed(self._topic, [self._partition])
        offset, who = found[self._partition]
        if who != self._name:
            raise ReadingLost
        if asyncio.get_running_loop().time() - self._committed_at > COMMIT_AGAIN:
            await self._commit(offset)

    async def _commit(self, offset: int) -> None:
        await self._broker.commit(self._topic, self._partition, offset, self._name)
        self._committed_at = asyncio.get_running_loop().time()

    def _taken(self, record: Any) -> Taken:
        # Any bytes that another program has put there: its signature tells who sent it.
        headers = {name: _text(value) for name, value in record.headers}
        key = _text(record.key)
        return Taken(Packet(self._partition, headers, record.value or b"", key), str(record.offset))


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
