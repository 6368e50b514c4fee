"""What brokers say, and what others put into them, that is not as it was meant."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.amqp.links import Link
from outbox.transports.brokers.broker import BrokerAway
from outbox.transports.brokers.kafka import KafkaBroker
from outbox.transports.brokers.kafka_records.reading import COMMIT_AGAIN, KafkaReading
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.redis_streams.reading import RedisReading
from outbox.transports.brokers.topics.kafka import TopicReading

_KAFKA = BrokerAddress.parse("kafka://127.0.0.1:1?partitions=1")
_MOVED = 16  # NOT_COORDINATOR


async def test_a_group_whose_coordinator_has_moved_is_asked_for_anew() -> None:
    broker: Any = KafkaBroker(_KAFKA)
    broker._coordinators["sagabox.comments"] = 1

    async def moved(*_: object) -> object:
        return SimpleNamespace(error_code=_MOVED, topics=[])

    broker._ask_coordinator = moved
    with pytest.raises(BrokerAway):
        await broker.committed("sagabox.comments", [0])
    assert broker._coordinators == {}


async def test_of_a_topic_that_cannot_be_taken_over_no_partition_is() -> None:
    taken: list[str] = []

    class Part:
        async def take_over(self) -> None:
            try:
                await asyncio.sleep(0)
                await asyncio.Event().wait()
            finally:
                taken.append("given up")

        async def aclose(self) -> None: ...

    class Away(Part):
        async def take_over(self) -> None:
            await asyncio.sleep(0)
            raise BrokerAway("its leader is gone", sent=False)

    parts: Any = [Part(), Away(), Part()]
    with pytest.raises(BrokerAway):
        await TopicReading(parts).begin()
    assert taken == ["given up"] * 2


class _Kept:
    """A broker that keeps one position."""

    def __init__(self) -> None:
        self.who = ""
        self.commits: list[int] = []

    async def committed(self, *_: object) -> dict[int, tuple[int, str]]:
        return {0: (7, self.who)}

    async def commit(self, topic: str, partition: int, offset: int, who: str) -> None:
        self.commits.append(offset)
        self.who = who


async def test_the_position_of_a_quiet_partition_is_committed_again() -> None:
    kept: Any = _Kept()
    reading: Any = KafkaReading(kept, "sagabox.comments", 0)
    await reading._commit(7)
    await reading._require_still_there()
    assert kept.commits == [7]
    reading._committed_at -= COMMIT_AGAIN + 1
    await reading._require_still_there()
    await reading._require_still_there()
    assert kept.commits == [7, 7]


def test_a_record_of_bytes_that_are_no_text_comes_out() -> None:
    kept: Any = _Kept()
    record = SimpleNamespace(headers=[("null", None), ("odd", b"\xff")], key=b"\xfe", value=None)
    record.offset = 3
    packet = KafkaReading(kept, "sagabox.comments", 0)._taken(record).packet
    assert packet.headers == {"null": "", "odd": "\ufffd"}
    assert (packet.key, packet.body) == ("\ufffd", b"")


def test_an_entry_of_bytes_that_are_no_text_comes_out() -> None:
    reading: Any = SimpleNamespace(_partition=2)
    fields = [b"body", b"x", b"key", b"\xfe", b"h:odd", b"\xff", b"strange", b"\xff"]
    taken = RedisReading._taken(reading, b"1-0", fields)
    assert (taken.position, taken.packet.partition) == ("1-0", 2)


async def test_a_connection_that_is_made_while_it_is_closed_is_closed_too() -> None:
    link: Any = Link(BrokerAddress.parse("amqp://127.0.0.1"), "sends")
    closed: list[object] = []

    async def connect() -> object:
        await link.aclose()

        async def close(*_: object, **__: object) -> None:
            closed.append(1)

        return SimpleNamespace(close=close)

    link._connect = connect
    with pytest.raises(BrokerAway, match="closed"):
        await link.connection()
    assert closed == [1]


@pytest.mark.parametrize(
    "address",
    [
        "nats://ada:sesame",
        "nats://ada:open?sesame@127.0.0.1",
        "amqp://ada:12?sesame@127.0.0.1:5672/vhost",
        "redis://ada:sesame/0",
    ],
)
def test_no_error_shows_a_secret_of_an_address(address: str) -> None:
    with pytest.raises(InvalidService) as refused:
        broker_at(address)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["kafka+tls", "amqps", "rediss"])
def test_certificates_that_are_not_there_are_told_before_any_connection(scheme: str) -> None:
    with pytest.raises(InvalidService, match="certificates"):
        broker_at(f"{scheme}://127.0.0.1?ca=/nowhere/ca.pem")
