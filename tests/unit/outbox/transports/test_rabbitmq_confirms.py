"""What the adapter of RabbitMQ says of packets, by what the server answers, and how it declares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import ChannelClosed, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.amqp.confirms import Fates, send_in_order
from outbox.transports.brokers.amqp.troubles import told
from outbox.transports.brokers.broker import BrokerAway, Packet, PacketRefused
from outbox.transports.brokers.rabbitmq import queue_arguments
from tests.support.processes.waiting import until

ADDRESS = BrokerAddress.parse("amqp://rabbit:5672")


class FakeChannel:
    """Notes what is published, and confirms it when it is told to."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.answers: list[asyncio.Future[None]] = []

    async def basic_publish(self, body: bytes, **options: Any) -> None:
        assert options["mandatory"]
        assert options["properties"].delivery_mode == 2
        self.published.append(body)
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]

    async def has(self, count: int) -> None:
        """Wait until so many have been published."""
        await until(lambda: len(self.published) >= count)
        await settled()


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def packets(*names: str) -> list[Packet]:
    """Packets whose key is their first letter."""
    return [Packet(0, {}, name.encode(), name[0]) for name in names]


def sending(channel: FakeChannel, *names: str) -> asyncio.Task[Fates]:
    return asyncio.create_task(send_in_order(cast("Channel", channel), "x", packets(*names)))


def returned() -> PublishError:
    frame = Basic.Return(312, "NO_ROUTE", "x", "0")
    message = DeliveredMessage(frame, ContentHeader(), b"", cast("Channel", None))
    return PublishError(message, frame)


def refused() -> DeliveryError:
    return DeliveryError(None, Basic.Nack(1))


async def test_packets_of_different_keys_are_sent_at_once_and_all_are_waited_for() -> None:
    channel = FakeChannel()
    running = sending(channel, "a1", "b1", "c1")
    await channel.has(3)
    for answer in channel.answers:
        await settled()
        assert not running.done()
        answer.set_result(None)
    assert (await running).is_good


async def test_what_follows_in_a_key_is_sent_when_the_server_has_what_it_follows() -> None:
    channel = FakeChannel()
    running = sending(channel, "a1", "b1", "a2", "c1", "a3")
    await channel.has(2)
    assert channel.published == [b"a1", b"b1"]
    channel.answers[0].set_result(None)
    channel.answers[1].set_result(None)
    await channel.has(4)
    assert channel.published == [b"a1", b"b1", b"a2", b"c1"]
    channel.answers[2].set_result(None)
    channel.answers[3].set_result(None)
    await channel.has(5)
    channel.answers[4].set_result(None)
    fates = await running
    assert fates.is_good
    assert fates.taken == 5


@pytest.mark.parametrize("trouble", [returned, refused, lambda: ConnectionError("gone")])
async def test_nothing_follows_what_was_not_taken(trouble: Callable[[], Exception]) -> None:
    channel = FakeChannel()
    running = sending(channel, "a1", "b1", "a2")
    await channel.has(2)
    assert channel.published == [b"a1", b"b1"]
    channel.answers[0].set_exception(trouble())
    channel.answers[1].set_result(None)
    fates = await running
    assert channel.published == [b"a1", b"b1"]
    assert not fates.is_good
    assert fates.taken == 1


async def test_what_was_sent_back_was_not_taken() -> None:
    channel = FakeChannel()
    running = sending(channel, "a1")
    await channel.has(1)
    channel.answers[0].set_exception(returned())
    with pytest.raises(BrokerAway, match="no queue for 1 of 1 packets") as away:
        (await running).require_good(packets("a1"))
    assert not away.value.sent


async def test_a_refusal_of_one_that_is_too_large_is_told_to_its_sender_alone() -> None:
    text = "PRECONDITION_FAILED - message size 9 is larger than configured max size 5"
    fates = Fates(unknown=[ChannelClosed(406, text)])
    with pytest.raises(PacketRefused, match="larger than configured"):
        fates.require_good([Packet(0, {}, b"123456789")])
    with pytest.raises(BrokerAway, match="larger than configured") as away:
        fates.require_good([Packet(0, {}, b"1234")])
    assert away.value.sent


async def test_a_cancelled_one_leaves_nothing_behind() -> None:
    channel = FakeChannel()
    running = sending(channel, "a1", "b1", "a2")
    await channel.has(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert all(it.cancelled() for it in channel.answers)
    assert len(channel.published) == 2


async def test_a_connection_that_broke_is_no_cancellation() -> None:
    with pytest.raises(BrokerAway) as away, told(ADDRESS, sent=True):
        raise asyncio.CancelledError
    assert away.value.sent


async def test_a_cancellation_stays_one() -> None:
    async def wait() -> None:
        with told(ADDRESS, sent=True):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await settled()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_mistakes_of_ours_are_not_troubles_of_the_broker() -> None:
    with pytest.raises(TypeError), told(ADDRESS, sent=True):
        raise TypeError("closed")
    with pytest.raises(RuntimeError), told(ADDRESS, sent=True):
        raise RuntimeError("another one")


@pytest.mark.parametrize(
    ("version", "limit"),
    [("3.10.8", None), ("3.13.0", None), ("4.0.1", -1), ("4.3.7", -1), ("10.0", -1), ("", None)],
)
def test_only_servers_that_know_a_limit_of_deliveries_are_told_to_have_none(
    version: str, limit: int | None
) -> None:
    assert queue_arguments(version).get("x-delivery-limit") == limit
    assert "x-delivery-limit" not in queue_arguments(version, has_policy=True)
