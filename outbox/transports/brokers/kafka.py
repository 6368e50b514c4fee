"""Kafka as a broker: a topic for each queue, with Kafka's own partitions.

A queue is the topic `{prefix}.{queue}`, and the group of the same name keeps how far each partition
is done. A packet goes to the partition that its key has for Sagabox, not for Kafka's clients.

Packets are produced here with one request a batch and no client that would send it again by itself:
what was told not to have left never arrives, and what follows a failure is not sent. So order needs
no idempotent producer. What the relay repeats, the inbox knows.

Kafka fences no reader that is assigned a partition by hand. The reader writes its name beside the
offset when it opens a partition, and looks whether it still stands there. Between the look and a
commit another one may open it: then the offset goes back, and packets come once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from aiokafka import TopicPartition, errors  # type: ignore[import-untyped]  # it ships no types
from aiokafka.client import (  # type: ignore[import-untyped]  # it ships no types
    AIOKafkaClient,
    ConnectionGroup,
    CoordinationType,
)
from aiokafka.cluster import ClusterMetadata  # type: ignore[import-untyped]  # no types
from aiokafka.conn import create_conn  # type: ignore[import-untyped]  # it ships no types
from aiokafka.protocol.commit import (  # type: ignore[import-untyped]  # it ships no types
    OffsetCommitRequest,
    OffsetFetchRequest,
)
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]  # no types
from aiokafka.protocol.offset import OffsetRequest  # type: ignore[import-untyped]  # no types
from aiokafka.protocol.produce import ProduceRequest  # type: ignore[import-untyped]  # no types

from outbox.clock import Clock, SystemClock
from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerFeatures,
    BrokerRefused,
    Packet,
    reading_answers,
)
from outbox.transports.brokers.kafka_records.batches import LARGEST, Records, rounds
from outbox.transports.brokers.kafka_records.client import ANSWER_WITHIN, access, closed
from outbox.transports.brokers.kafka_records.reading import EARLIEST, LATEST, KafkaReading
from outbox.transports.brokers.kafka_records.troubles import FAILURES, Trouble, trouble, worst

log = logging.getLogger("outbox.brokers")
T = TypeVar("T")

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LONGEST_FETCH = 5.0
"""Seconds for which one request waits in the server for a packet."""
_UNSENT = (errors.NodeNotReadyError, errors.StaleMetadata, errors.IncompatibleBrokerVersion)
_ALL_REPLICAS = -1
_NO_GENERATION = -1


class KafkaBroker:
    """A client of the Kafka at that address. Options of the address:

    - `sasl`: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, for the user and the password of the address.
    - `ca`, `cert`, `key`: files of certificates, with `kafka+tls`.

    Topics are made by who runs Kafka, with their replicas. Raises InvalidService where the address
    has what Kafka has not. A fetch waits in the server for `longest_fetch` seconds at most.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"ca", "cert", "key", "sasl"})

    def __init__(
        self,
        address: BrokerAddress,
        *,
        longest_fetch: float = LONGEST_FETCH,
        clock: Clock | None = None,
    ) -> None:
        sasl = address.options.get("sasl", "PLAIN").upper()
        if address.path or sasl not in _MECHANISMS:
            raise InvalidService(
                f"{address} has a path, or a sasl that is none of {', '.join(_MECHANISMS)}",
                next_step="write it as kafka://user:secret@host:9092?sasl=SCRAM-SHA-512",
            )
        if address.user is None and (address.password or "sasl" in address.options):
            raise InvalidService(
                f"the address of {address} has 'sasl' or a password, and no user, without whom "
                "they have no effect",
                next_step="write kafka://user:secret@host:9092, or leave them out",
            )
        self.partitions = address.partitions
        self.features = BrokerFeatures(
            durable="when all replicas in sync have it, min.insync.replicas at least",
            largest=LARGEST,
        )
        self.longest_fetch = longest_fetch
        self._address = address
        self._name = str(address)
        self._access = access(address, sasl, ANSWER_WITHIN + longest_fetch)
        self._clock = clock or SystemClock()
        self._closed = False
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()
        self._known_topics: set[str] = set()
        self._coordinators: dict[str, int] = {}
        self._readings: set[KafkaReading] = set()

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Each partition's in its order; no further batch of records after one that failed."""
        if not packets:
            return
        client = await self._connected()
        topic = await self._require_topic(client, queue)
        is_any_there = False
        for records in rounds(packets, int(self._clock.now().timestamp() * 1000)):
            by_node: dict[int, dict[int, bytes]] = defaultdict(dict)
            try:
                for partition, batch in records.items():
                    by_node[self._leader(client, topic, partition)][partition] = batch
            except BrokerAway as away:
                raise worst([away], is_any_there) from None
            found = await asyncio.gather(
                *(self._produce(client, node, topic, each) for node, each in by_node.items())
            )
            troubles = [it for those in found for it in those]
            is_any_there |= len(troubles) < len(records)
            if troubles:
                raise worst(troubles, is_any_there)

    async def open(self, queue: str, partition: int) -> KafkaReading:
        """Read that partition from where its group stands, on connections of its own."""
        client = await self._connected()
        topic = await self._require_topic(client, queue)
        reading = KafkaReading(self, topic, partition)
        try:
            await reading.take_over()
        except BaseException:
            await reading.aclose()
            raise
        self._readings.add(reading)
        return reading

    async def waiting(self, queue: str) -> int:
        """How far the group is behind the ends of the partitions."""
        client = await self._connected()
        topic = await self._require_topic(client, queue)
        partitions = range(self.partitions)
        done = await self.committed(topic, partitions)
        first, last = [await self.offsets(topic, partitions, it) for it in (EARLIEST, LATEST)]
        return sum(last[it] - max(first[it], done[it][0]) for it in partitions)

    async def aclose(self) -> None:
        """Close all connections, those of readings too."""
        self._closed = True
        for reading in [*self._readings]:
            await reading.aclose()
        await self._give_up(self._client)

    async def new_client(self) -> AIOKafkaClient:
        """Connections of their own. Raises BrokerAway and BrokerRefused.

        The client is not asked to begin by itself: it hides why it cannot, and then looks after
        what it knows of the topics in a task of its own, which may miss that it is to end.
        """
        if self._closed:
            raise BrokerAway("the broker is closed", sent=False)
        servers = {"bootstrap_servers": [f"{host}:{port}" for host, port in self._address.servers]}
        client = AIOKafkaClient(**servers, **self._access)
        failure: Exception | None = None
        for host, port in self._address.servers:
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    connection = await create_conn(host, port, **self._access)
                    try:
                        # All topics are asked for: Kafka may create the one that it is asked for.
                        metadata = await connection.send(MetadataRequest(None))
                    finally:
                        connection.close()
                client.cluster.update_metadata(metadata)
            except (*FAILURES, TimeoutError, OSError) as error:
                failure = error
            else:
                if self._closed:
                    raise BrokerAway("the broker is closed", sent=False)
                return client
        assert failure is not None, "an address has a server"
        raise self.trouble(failure, sent=False) from failure

    def forget(self, reading: KafkaReading) -> None:
        """It is closed."""
        self._readings.discard(reading)

    async def offsets(self, topic: str, partitions: Sequence[int], which: int) -> dict[int, int]:
        """The first or the next offset of each."""
        client = await self._connected()
        by_node: dict[int, list[int]] = defaultdict(list)
        for partition in partitions:
            by_node[self._leader(client, topic, partition)].append(partition)
        found: dict[int, int] = {}
        for node, those in by_node.items():
            request = OffsetRequest(-1, 0, [(topic, [(it, which) for it in those])])
            answer = await self._ask(client, node, request)
            with reading_answers(self._name, sent=False):
                for _, each in answer.topics:
                    for partition, code, _, offset, *_ in each:
                        self._require_no_error(code)
                        found[partition] = offset
        return _of_each(partitions, found, self._name)

    async def committed(
        self, topic: str, partitions: Sequence[int]
    ) -> dict[int, tuple[int, str | None]]:
        """The next offset that is not done, -1 for none, and who has said so."""
        group = self.group_of(topic)
        request = OffsetFetchRequest(group, [(topic, list(partitions))])
        answer = await self._ask_coordinator(group, request)
        # Of a group that has gone to another coordinator the answer names no partition.
        self._require_no_error(getattr(answer, "error_code", 0))
        found: dict[int, tuple[int, str | None]] = {}
        with reading_answers(self._name, sent=False):
            for _, each in answer.topics:
                for partition, offset, who, code in each:
                    self._require_no_error(code)
                    found[partition] = offset, who
        return _of_each(partitions, found, self._name)

    async def commit(self, topic: str, partition: int, offset: int, who: str) -> None:
        """All before that offset is done."""
        group = self.group_of(topic)
        request = OffsetCommitRequest(
            group, _NO_GENERATION, "", -1, [(topic, [(partition, offset, who)])]
        )
        answer = await self._ask_coordinator(group, request)
        found: dict[int, None] = {}
        with reading_answers(self._name, sent=False):
            for _, each in answer.topics:
                for named, code in each:
                    self._require_no_error(code)
                    found[named] = None
        _of_each([partition], found, self._name)

    def group_of(self, topic: str) -> str:
        """The group that keeps how far the topic is done."""
        return topic

    def trouble(self, error: BaseException, *, sent: bool) -> Trouble:
        """The error, with the name of this Kafka."""
        return trouble(error, self._name, sent=sent)

    async def _produce(
        self, client: AIOKafkaClient, node: int, topic: str, records: Records
    ) -> list[Trouble]:
        """What went wrong, for each partition that has not taken its records."""
        request = ProduceRequest(
            None, _ALL_REPLICAS, int(ANSWER_WITHIN * 1000), [(topic, [*records.items()])]
        )
        try:
            answer = await client.send(node, request)
            codes = _codes_in(answer)
        except _UNSENT as error:
            await self._give_up(client)
            return [self.trouble(error, sent=False)] * len(records)
        except FAILURES as error:
            return [self.trouble(error, sent=True)] * len(records)
        found: list[Trouble] = []
        for partition in records:
            if partition not in codes:
                found.append(_unnamed(self._name, partition, sent=True))
                continue
            kind = errors.for_code(codes[partition])
            if kind is not errors.NoError:
                if kind.invalid_metadata:
                    self._known_topics.discard(topic)
                found.append(self.trouble(kind(), sent=True))
        return found

    async def _ask(
        self, client: AIOKafkaClient, node: int, request: Any, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        try:
            return await client.send(node, request, group=group)
        except _UNSENT as error:
            await self._give_up(client)
            raise self.trouble(error, sent=False) from error
        except FAILURES as error:
            raise self.trouble(error, sent=False) from error

    async def _ask_coordinator(self, group: str, request: Any) -> Any:
        client = await self._connected()
        try:
            if group not in self._coordinators:
                self._coordinators[group] = await client.coordinator_lookup(
                    CoordinationType.GROUP, group
                )
        except FAILURES as error:
            await self._give_up(client)
            raise self.trouble(error, sent=False) from error
        node = self._coordinators[group]
        return await self._ask(client, node, request, ConnectionGroup.COORDINATION)

    def _require_no_error(self, code: int) -> None:
        kind = errors.for_code(code)
        if kind is not errors.NoError:
            self._coordinators.clear()
            if kind.invalid_metadata:
                self._known_topics.clear()
            raise self.trouble(kind(), sent=False)

    def _leader(self, client: AIOKafkaClient, topic: str, partition: int) -> int:
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        if leader is None or leader < 0:
            self._known_topics.discard(topic)
            raise BrokerAway(
                f"partition {partition} of {topic} at {self._name} has no leader now", sent=False
            )
        return int(leader)

    async def _require_topic(self, client: AIOKafkaClient, queue: str) -> str:
        topic = f"{self._address.prefix}.{queue}"
        if topic in self._known_topics:
            return topic
        try:
            client.cluster = await client.fetch_all_metadata()
        except FAILURES as error:
            await self._give_up(client)
            raise self.trouble(error, sent=False) from error
        number = len(client.cluster.partitions_for_topic(topic) or ())
        if number == 0:
            raise BrokerRefused(
                f"{self._name} has no topic {topic} that this user may see",
                next_step=f"create it: kafka-topics.sh --create --topic {topic} --partitions "
                f"{self.partitions} --replication-factor 3 --config min.insync.replicas=2 "
                "--config retention.ms=-1; docs/operate/kafka.md says why",
            )
        if number != self.partitions:
            raise BrokerRefused(
                f"the topic {topic} of {self._name} has {number} partitions, and the address says "
                f"{self.partitions}",
                next_step=f"write partitions={number} into the address, for all who send to this "
                "queue and read it; another number needs a new prefix",
            )
        self._known_topics.add(topic)
        return topic

    async def _connected(self) -> AIOKafkaClient:
        async with self._connecting:
            if self._client is None:
                self._client = await self.new_client()
            return self._client

    async def _give_up(self, client: AIOKafkaClient | None) -> None:
        """Begin anew with the address: the nodes that this one knows may be others by now."""
        if client is self._client and client is not None:
            self._client = None
            self._known_topics.clear()
            self._coordinators.clear()
            client.cluster = ClusterMetadata()  # a reading that holds it connects to no node
            await closed(client)


def _of_each(partitions: Sequence[int], found: Mapping[int, T], name: str) -> dict[int, T]:
    """What was found of these. Raises BrokerAway where the answer does not name one."""
    for partition in partitions:
        if partition not in found:
            raise _unnamed(name, partition, sent=False)
    return {it: found[it] for it in partitions}


def _unnamed(name: str, partition: int, *, sent: bool) -> BrokerAway:
    return BrokerAway(f"{name} says nothing of partition {partition}", sent=sent)


def _codes_in(answer: Any) -> dict[int, int]:
    """What is told of each partition that records were sent to."""
    return {partition: code for _, those in answer.topics for partition, code, *_ in those}
