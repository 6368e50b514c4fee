"""Kafka as a broker, on a mock cluster: what it takes, whom it lets read, and what it is refused.

The cluster keeps what it has in memory. So that a restart of Kafka loses nothing is not shown here;
nor are users, rights and the sizes that it refuses, which the cluster does not know.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from aiokafka import errors  # type: ignore[import-untyped]  # it ships no types

from outbox.errors import InvalidService
from outbox.transports.brokers import kafka as adapter
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerRefused,
    Packet,
    PacketRefused,
    ReadingLost,
)
from outbox.transports.brokers.kafka import KafkaBroker
from outbox.transports.brokers.kafka_records.troubles import trouble
from outbox.transports.brokers.opening import broker_at
from tests.support.brokers.kafka_mock import MockKafka, a_kafka
from tests.support.brokers.traffic import (
    PATIENT,
    QUEUE,
    Traffic,
    insisting,
    opened,
    packet,
    packets,
    read,
    read_all,
    read_up_to,
)
from tests.support.checkout import CERTIFICATE

PRODUCE, FETCH, OFFSETS, COMMIT, COMMITTED, VERSIONS = 0, 1, 2, 8, 9, 18
"""The numbers of these requests in Kafka's protocol."""


@pytest.fixture
async def kafka() -> AsyncIterator[MockKafka]:
    async with a_kafka([QUEUE]) as it:
        yield it


@pytest.fixture
async def broker(kafka: MockKafka) -> AsyncIterator[KafkaBroker]:
    async with client(kafka) as it:
        yield it


@asynccontextmanager
async def client(
    kafka: MockKafka, query: str = "partitions=4", access: str = ""
) -> AsyncIterator[KafkaBroker]:
    broker = KafkaBroker(BrokerAddress.parse(kafka.url(query, access)), longest_fetch=0.1)
    try:
        yield broker
    finally:
        await broker.aclose()


class TestWhatItTakes:
    async def test_a_packet_comes_out_as_it_went_in(self, broker: KafkaBroker) -> None:
        given = Packet(3, {"content-type": "a/b", "x": "1 2"}, bytes(range(256)), "Zimmer 7 / ü")
        await broker.publish(QUEUE, [given])
        async with opened(broker, 3) as reading:
            (taken,) = await reading.next(10, PATIENT)
        assert taken.packet == given

    async def test_a_batch_larger_than_one_request_keeps_its_order(
        self, broker: KafkaBroker
    ) -> None:
        large = [Packet(n % 2, {}, b"%d" % n + b" " * 400_000, "key") for n in range(12)]
        await broker.publish(QUEUE, large)
        for partition in (0, 1):
            async with opened(broker, partition) as reading:
                assert await read(reading, 6) == [*range(partition, 12, 2)]

    async def test_what_follows_a_batch_of_records_that_failed_is_not_sent(
        self, kafka: MockKafka, broker: KafkaBroker
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        large = [Packet(0, {}, b"%d" % n + b" " * 700_000, "key") for n in range(1, 4)]
        kafka.way.break_at_next(PRODUCE)
        with pytest.raises(BrokerAway) as away:
            await broker.publish(QUEUE, large)
        assert away.value.sent
        assert await broker.waiting(QUEUE) == 2
        async with opened(broker) as reading:
            assert await read_all(reading, 2, wait=0.5) == [0, 1]

    async def test_connections_that_break_lose_nothing_and_invert_no_key(
        self, kafka: MockKafka, broker: KafkaBroker
    ) -> None:
        async with client(kafka) as reader:
            traffic = Traffic(broker, reader, partitions=3, batches=30)

            async def breaks() -> None:
                for cuts in range(1, 6):
                    await traffic.has_sent(cuts * 12)
                    await kafka.way.cut()
                    await kafka.way.open()

            async with asyncio.timeout(200):
                await traffic.run(breaks())
        traffic.require_all_in_order()
        assert await broker.waiting(QUEUE) == 0

    async def test_how_many_wait(self, broker: KafkaBroker) -> None:
        assert await broker.waiting(QUEUE) == 0
        await broker.publish(QUEUE, [packet(n, n % 4) for n in range(8)])
        async with opened(broker, 1) as reading:
            assert await read(reading, 2) == [1, 5]
            await reading.done(1)
        assert await broker.waiting(QUEUE) == 7


def naming_none(answer: bytes) -> bytes:
    """The same answer, as far as it tells whose it is; it names nothing, and no error."""
    return answer[:4] + bytes(16)


def of_no_length(answer: bytes) -> bytes:
    """The same, where each list has no length, and each text none."""
    return answer[:4] + b"\xff" * 64


class TestNonsense:
    async def test_packets_of_which_it_says_nothing_are_not_taken(
        self, kafka: MockKafka, broker: KafkaBroker
    ) -> None:
        kafka.way.lie_at(PRODUCE, 1, naming_none)
        with pytest.raises(BrokerAway, match="says nothing of partition 0") as away:
            await broker.publish(QUEUE, packets(1))
        assert away.value.sent
        await broker.publish(QUEUE, packets(1))

    @pytest.mark.parametrize("lie", [naming_none, of_no_length])
    @pytest.mark.parametrize("kind", [PRODUCE, FETCH, OFFSETS, COMMIT, COMMITTED, VERSIONS])
    async def test_an_answer_that_cannot_be_read_is_trouble_of_the_broker_and_passes(
        self, kafka: MockKafka, kind: int, lie: Callable[[bytes], bytes]
    ) -> None:
        async def all_of_it(broker: KafkaBroker) -> None:
            await broker.publish(QUEUE, packets(1))
            async with opened(broker) as reading:
                await reading.done(len(await reading.next(1, PATIENT)))
            await broker.waiting(QUEUE)

        number, has_lied = 0, True
        while has_lied:
            number += 1
            async with client(kafka) as broker:
                kafka.way.lie_at(kind, number, lie)
                # Some of these answers can be read: as none, or as an error that is not known.
                with suppress(BrokerAway, BrokerRefused):
                    await all_of_it(broker)
                has_lied = kafka.way.has_lied()
                await insisting(partial(all_of_it, broker))
        assert number > 1


class TestWhoReads:
    async def test_a_reader_that_was_taken_over_is_told_and_commits_nothing(
        self, broker: KafkaBroker
    ) -> None:
        await broker.publish(QUEUE, packets(5))
        async with opened(broker) as frozen:
            assert await read(frozen, 3) == [0, 1, 2]
            async with opened(broker) as reading:
                with pytest.raises(ReadingLost):
                    await frozen.done(3)
                with pytest.raises(ReadingLost):
                    await frozen.next(1, 0.1)
                assert await read(reading, 5) == [0, 1, 2, 3, 4]
                await reading.done(2)
        async with opened(broker) as reading:
            assert await read_all(reading, 3, wait=0.3) == [2, 3, 4]

    async def test_a_late_commit_of_an_old_reader_only_repeats(
        self, kafka: MockKafka, broker: KafkaBroker
    ) -> None:
        await broker.publish(QUEUE, packets(5))
        async with opened(broker) as reading:
            assert await read(reading, 4) == [0, 1, 2, 3]
            await reading.done(4)
            # It had looked before it was taken over, and its commit was under way meanwhile.
            await broker.commit(f"{kafka.prefix}.{QUEUE}", 0, 2, "the old reader")
            with pytest.raises(ReadingLost):
                await reading.next(1, 0.1)
        async with opened(broker) as reading:
            assert await read_all(reading, 3, wait=0.3) == [2, 3, 4]

    async def test_several_partitions_are_read_side_by_side(self, broker: KafkaBroker) -> None:
        await broker.publish(QUEUE, [packet(n, n % 2) for n in range(6)])
        async with opened(broker, 0) as one, opened(broker, 1) as two:
            assert await read(two, 3) == [1, 3, 5]
            assert await read(one, 3) == [0, 2, 4]

    async def test_what_was_deleted_unread_is_told_and_the_rest_is_read(
        self, broker: KafkaBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(broker):
            pass
        # The mock keeps five megabytes of a partition.
        for n in range(8):
            await broker.publish(QUEUE, [Packet(0, {}, b"%d" % n + b" " * 900_000, "key")])
        with caplog.at_level(logging.ERROR, "outbox.brokers"):
            async with opened(broker) as reading:
                found = await read_up_to(reading, 7)
        assert found == [*range(found[0], 8)]
        assert f"{found[0]} packets of partition 0" in caplog.text

    async def test_a_server_that_says_nothing_more_is_away(
        self, kafka: MockKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adapter, "ANSWER_WITHIN", 0.4)
        async with client(kafka) as broker:
            await insisting(lambda: broker.publish(QUEUE, packets(1)))
            reading = await insisting(lambda: broker.open(QUEUE, 0))
            await kafka.way.silence()
            with pytest.raises(BrokerAway):
                await reading.next(1, 0.1)
            with pytest.raises(BrokerAway) as away:
                await broker.publish(QUEUE, packets(1))
            assert away.value.sent
            await kafka.way.open()
            await reading.aclose()
            await insisting(lambda: broker.publish(QUEUE, packets(1)))

    async def test_a_closed_broker_ends_its_readings(self, broker: KafkaBroker) -> None:
        async with opened(broker) as reading:
            await broker.aclose()
            with pytest.raises(BrokerAway):
                await reading.next(1, 0.1)
        with pytest.raises(BrokerAway) as away:
            await broker.open(QUEUE, 0)
        assert not away.value.sent


class TestWhatIsRefused:
    async def test_a_topic_that_is_not_there_is_not_made_by_the_way(
        self, kafka: MockKafka, broker: KafkaBroker
    ) -> None:
        for _ in range(2):
            with pytest.raises(BrokerRefused, match="kafka-topics") as refused:
                await broker.publish("articles", packets(1))
            assert f"--create --topic {kafka.prefix}.articles --partitions 4" in str(refused.value)
        await kafka.create("articles")
        await broker.publish("articles", packets(1))

    async def test_another_number_of_partitions(self, kafka: MockKafka) -> None:
        async with client(kafka, "partitions=8") as broker:
            with pytest.raises(BrokerRefused, match="partitions=4"):
                await broker.publish(QUEUE, packets(1))
            with pytest.raises(BrokerRefused, match="partitions=4"):
                await broker.open(QUEUE, 0)
            with pytest.raises(BrokerRefused, match="partitions=4"):
                await broker.waiting(QUEUE)

    @pytest.mark.parametrize(
        "text", ["kafka://one/path", "kafka://one?sasl=OAUTHBEARER", "kafka://one?acks=1"]
    )
    async def test_addresses_with_what_kafka_has_not(self, text: str) -> None:
        with pytest.raises(InvalidService):
            broker_at(text)

    @pytest.mark.parametrize(
        "kind",
        [
            errors.AuthenticationFailedError,
            errors.SaslAuthenticationFailed,
            errors.UnsupportedSaslMechanismError,
            errors.TopicAuthorizationFailedError,
            errors.GroupAuthorizationFailedError,
            errors.PolicyViolationError,
        ],
    )
    def test_what_does_not_pass(self, kind: type[Exception]) -> None:
        refused = trouble(kind("no"), "kafka at one:9092", sent=True)
        assert isinstance(refused, BrokerRefused)
        assert refused.next_step
        is_entry = "Sasl" in kind.__name__ or kind is errors.AuthenticationFailedError
        assert ("refuses the credentials" in refused.problem) is is_entry

    @pytest.mark.parametrize(
        ("kind", "sent"),
        [
            (errors.NotLeaderForPartitionError, True),
            (errors.UnknownTopicOrPartitionError, True),
            (errors.NotCoordinatorForGroupError, False),
            (errors.NotEnoughReplicasError, False),
            (errors.NotEnoughReplicasAfterAppendError, True),
            (errors.RequestTimedOutError, True),
            (errors.KafkaConnectionError, True),
            (TimeoutError, True),
        ],
    )
    def test_what_passes_is_no_refusal(self, kind: type[Exception], sent: bool) -> None:
        away = trouble(kind("no"), "kafka at one:9092", sent=True)
        assert isinstance(away, BrokerAway)
        assert away.sent is sent

    def test_what_is_too_large_is_refused_as_a_packet(self) -> None:
        refused = trouble(errors.MessageSizeTooLargeError("no"), "kafka", sent=True)
        assert isinstance(refused, PacketRefused)


async def test_it_travels_over_tls_to_a_server_that_is_trusted() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with a_kafka([QUEUE], tls=context) as kafka:
        async with client(kafka, f"partitions=4&ca={CERTIFICATE}") as broker:
            await broker.publish(QUEUE, packets(1))
            assert await broker.waiting(QUEUE) == 1
        async with client(kafka) as broker:
            with pytest.raises(BrokerRefused, match="is not trusted"):
                await broker.publish(QUEUE, packets(1))
