"""What RabbitMQ refuses, and what its adapter refuses for it: each says the next step."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import pytest
from aiormq.abc import AbstractChannel

from outbox.errors import InvalidService
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, Packet, PacketRefused
from outbox.transports.brokers.rabbitmq import LARGEST, RabbitBroker
from tests.support.brokers.rabbitmq_server import RabbitServer, shared_rabbit
from tests.support.brokers.traffic import QUEUE, opened, packet, packets, read, read_all


@pytest.fixture
def server() -> RabbitServer:
    return shared_rabbit()


@pytest.fixture
def prefix() -> str:
    return f"test-{os.urandom(6).hex()}"


@asynccontextmanager
async def client(address: str) -> AsyncIterator[RabbitBroker]:
    broker = RabbitBroker(BrokerAddress.parse(address))
    try:
        yield broker
    finally:
        await broker.aclose()


@pytest.fixture
async def broker(server: RabbitServer, prefix: str) -> AsyncIterator[RabbitBroker]:
    async with client(server.url(f"partitions=4&prefix={prefix}")) as it:
        yield it


@pytest.fixture
async def admin(server: RabbitServer) -> AsyncIterator[AbstractChannel]:
    async with aiormq.connect(server.url()) as connection:
        yield await connection.channel()


async def refusal(address: str) -> str:
    """What each call says, which is the same."""
    async with client(address) as broker:
        told = set()
        for asked in (
            lambda: broker.publish(QUEUE, packets(1)),
            lambda: broker.open(QUEUE, 0),
            lambda: broker.waiting(QUEUE),
        ):
            with pytest.raises(BrokerRefused) as refused:
                await asked()
            told.add(str(refused.value))
        (words,) = told
        return words


class TestEntry:
    async def test_a_wrong_password(self, server: RabbitServer) -> None:
        words = await refusal(server.url(user="guest:not-it"))
        assert "refuses the credentials of the user 'guest'" in words
        assert "amqp://user:secret@host/vhost" in words
        assert "not-it" not in words

    async def test_a_virtual_host_that_is_not_there(self, server: RabbitServer) -> None:
        words = await refusal(server.url(vhost="nowhere"))
        assert "the virtual host 'nowhere'" in words
        assert "rabbitmqctl add_vhost" in words

    async def test_a_user_who_may_not_enter_the_virtual_host(
        self, server: RabbitServer, prefix: str
    ) -> None:
        server.add_user(prefix, rights=None)
        words = await refusal(server.url(user=f"{prefix}:{prefix}"))
        assert f"does not let the user '{prefix}' into the virtual host '/'" in words
        assert "rabbitmqctl set_permissions" in words

    async def test_a_user_without_rights_to_the_queues(
        self, server: RabbitServer, prefix: str
    ) -> None:
        server.add_user(prefix, rights="^other")
        words = await refusal(server.url(f"prefix={prefix}", user=f"{prefix}:{prefix}"))
        assert "ACCESS_REFUSED" in words
        assert f"configure, write and read what is called ^{prefix}\\." in words

    async def test_the_rights_that_it_names_suffice(
        self, server: RabbitServer, prefix: str
    ) -> None:
        vhost = f"a/b {prefix}"
        server.run(f'rabbit_vhost:add(<<"{vhost}">>, <<"test">>)')
        server.add_user(prefix, rights=f"^{prefix}\\\\.", vhost=vhost)
        where = vhost.replace("/", "%2F").replace(" ", "%20")
        address = server.url(f"prefix={prefix}", user=f"{prefix}:{prefix}", vhost=where)
        async with client(address) as broker:
            await broker.publish(QUEUE, packets(3))
            async with opened(broker) as reading:
                assert await read(reading, 3) == [0, 1, 2]
            assert await broker.waiting(QUEUE) == 3

    async def test_a_secret_with_signs_of_an_address(
        self, server: RabbitServer, prefix: str
    ) -> None:
        name = f'"{prefix}", "p@:/%+"'
        server.run(
            f"[rabbit_auth_backend_internal:add_user(list_to_binary(U), list_to_binary(P), "
            f'<<"test">>) || {{U, P}} <- [{{{name}}}]], rabbit_auth_backend_internal:'
            f'set_permissions(<<"{prefix}">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        )
        address = server.url(f"prefix={prefix}", user=f"{prefix}:p%40%3A%2F%25%2B")
        async with client(address) as broker:
            await broker.publish(QUEUE, packets(1))


class TestShapes:
    async def test_another_number_of_partitions(
        self, server: RabbitServer, broker: RabbitBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        words = await refusal(server.url(f"partitions=8&prefix={prefix}"))
        assert f"{prefix}.{QUEUE}.of-4" in words
        assert "write the partitions that the queue has into each address" in words

    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"x-queue-type": "quorum"},
            {
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-message-ttl": 60_000,
            },
        ],
        ids=["classic", "many readers", "forgets"],
    )
    async def test_a_queue_that_is_declared_otherwise(
        self,
        server: RabbitServer,
        admin: AbstractChannel,
        prefix: str,
        arguments: dict[str, Any],
    ) -> None:
        await admin.queue_declare(f"{prefix}.{QUEUE}.0", durable=True, arguments=arguments)
        words = await refusal(server.url(f"prefix={prefix}"))
        assert "PRECONDITION_FAILED" in words
        assert "rabbitmqctl delete_queue" in words

    async def test_a_queue_that_drops_what_came_often(
        self, server: RabbitServer, admin: AbstractChannel, prefix: str
    ) -> None:
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-delivery-limit": 20,
        }
        await admin.queue_declare(f"{prefix}.{QUEUE}.0", durable=True, arguments=arguments)
        words = await refusal(server.url(f"prefix={prefix}"))
        assert "set the policy delivery-limit to -1" in words

    async def test_after_a_refusal_it_works_as_soon_as_it_may(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        await admin.queue_declare(f"{prefix}.{QUEUE}.0", durable=True)
        for partition in (0, 1):  # what is wrong with one is told to the first that needs any
            with pytest.raises(BrokerRefused):
                await broker.publish(QUEUE, packets(1, partition))
        await admin.queue_delete(f"{prefix}.{QUEUE}.0")
        await broker.publish(QUEUE, packets(1))


class TestSizes:
    async def test_what_is_larger_than_declared_is_not_sent(self, broker: RabbitBroker) -> None:
        await broker.publish(QUEUE, [Packet(0, {}, b"x" * LARGEST)])
        with pytest.raises(PacketRefused, match="bytes are more than"):
            await broker.publish(QUEUE, [packet(0), Packet(0, {}, b"x" * (LARGEST + 1))])
        with pytest.raises(PacketRefused, match="bytes of headers"):
            await broker.publish(QUEUE, [packet(0), Packet(0, {"name": "x" * 70_000}, b"")])
        assert await broker.waiting(QUEUE) == 1

    async def test_the_limit_of_the_server_counts_too(
        self, server: RabbitServer, broker: RabbitBroker
    ) -> None:
        before = server.run("rabbit_misc:get_env(rabbit, max_message_size, undefined)")
        server.run("application:set_env(rabbit, max_message_size, 10000)")
        try:
            large = Packet(0, {}, b"x" * 10_001, "large")
            with pytest.raises(PacketRefused, match="larger than configured"):
                await broker.publish(QUEUE, [packet(0), large, packet(2)])
            await broker.publish(QUEUE, [packet(3)])
        finally:
            server.run(f"application:set_env(rabbit, max_message_size, {before})")
        async with opened(broker) as reading:
            assert await read_all(reading, 2) == [0, 3]


async def test_a_limit_of_deliveries_that_means_nothing(server: RabbitServer) -> None:
    with pytest.raises(InvalidService, match="delivery-limit=5"):
        RabbitBroker(BrokerAddress.parse(server.url("delivery-limit=5")))


def test_certificates_that_are_not_there() -> None:
    with pytest.raises(InvalidService, match="cannot be read"):
        RabbitBroker(BrokerAddress.parse("amqps://127.0.0.1:5671?ca=/nowhere/ca.pem"))


async def test_a_server_that_is_not_there(server: RabbitServer) -> None:
    async with client("amqp://127.0.0.1:1") as broker:
        with pytest.raises(BrokerAway, match=r"127\.0\.0\.1:1") as away:
            await broker.publish(QUEUE, packets(1))
        assert not away.value.sent
