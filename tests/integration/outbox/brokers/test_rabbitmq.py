"""RabbitMQ as a broker, on a real server: what it keeps, in which order, and who reads it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiormq
import pytest
from aiormq.abc import AbstractChannel

from outbox.transports.brokers import rabbitmq
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway, Packet, ReadingLost
from outbox.transports.brokers.rabbitmq import IN_HAND, RabbitBroker
from tests.support.brokers.rabbitmq_server import RabbitServer, shared_rabbit
from tests.support.brokers.traffic import (
    PATIENT,
    QUEUE,
    Traffic,
    opened,
    packet,
    packets,
    read,
    read_up_to,
    require_first_kept,
)
from tests.support.checkout import CERTIFICATE, ROOT
from tests.support.faults.network import Weather, wire
from tests.support.processes.waiting import RARELY, free_port, until


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
def address(server: RabbitServer, prefix: str) -> str:
    return server.url(f"partitions=4&prefix={prefix}")


@pytest.fixture
async def broker(address: str) -> AsyncIterator[RabbitBroker]:
    async with client(address) as it:
        yield it


@pytest.fixture
async def admin(server: RabbitServer) -> AsyncIterator[AbstractChannel]:
    async with aiormq.connect(server.url()) as connection:
        yield await connection.channel()


class TestPackets:
    async def test_a_packet_comes_out_as_it_went_in(self, broker: RabbitBroker) -> None:
        given = Packet(3, {"content-type": "text/plain", "sagabox-x": "y"}, b"\x00\xff" * 99)
        await broker.publish(QUEUE, [given])
        async with opened(broker, 3) as reading:
            (taken,) = await reading.next(10, PATIENT)
        assert taken.packet == given

    async def test_more_than_a_reader_may_have_in_hand_come_in_their_order(
        self, broker: RabbitBroker
    ) -> None:
        count = 3 * IN_HAND + 7
        await broker.publish(QUEUE, packets(count))
        found: list[int] = []
        async with opened(broker) as reading:
            while len(found) < count:
                some = await reading.next(30, 5.0)
                found += [int(it.packet.body) for it in some]
                await reading.done(len(some))
            assert found == [*range(count)]
            assert await reading.next(10, 0.1) == ()
        assert await broker.waiting(QUEUE) == 0

    async def test_a_reader_gets_many_at_once(self, broker: RabbitBroker) -> None:
        """Few at a time would be as many statements of the inbox, and acknowledgements."""
        await broker.publish(QUEUE, packets(300))
        found, times = 0, 0
        async with opened(broker) as reading:
            while found < 300:
                some = await reading.next(100, 5.0)
                await reading.done(len(some))
                found += len(some)
                times += 1
        assert times < 90, "three at a time would be a hundred"

    async def test_what_is_not_done_comes_again_before_the_rest_after_each_reader(
        self, broker: RabbitBroker
    ) -> None:
        """Several readers in turn, each with as many in hand as there may be."""
        await broker.publish(QUEUE, packets(3 * IN_HAND))
        for number in range(5):
            async with opened(broker) as reading:
                assert await read(reading, IN_HAND) == [*range(number, number + IN_HAND)]
                await reading.done(1)

    async def test_those_of_a_reader_whose_connection_broke_come_again_in_their_order(
        self, server: RabbitServer, broker: RabbitBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(3 * IN_HAND))
        for first in (0, 10, 20):
            async with wire(server.url()) as air, client(over(air.port, prefix)) as dying:
                reading = await dying.open(QUEUE, 0)
                assert await read(reading, IN_HAND) == [*range(first, first + IN_HAND)]
                await reading.done(10)
                further = first + IN_HAND
                assert await read(reading, 10) == [*range(further, further + 10)]
                air.reset()
                with pytest.raises(BrokerAway):
                    await reading.next(1, PATIENT)
                with pytest.raises(BrokerAway):
                    await reading.done(1)

    async def test_packets_that_wait_are_counted(self, broker: RabbitBroker) -> None:
        assert await broker.waiting(QUEUE) == 0
        await broker.publish(QUEUE, [packet(it, it % 4) for it in range(20)])
        async with opened(broker) as reading:
            assert len(await read(reading, 5)) == 5
            await reading.done(2)
            assert await broker.waiting(QUEUE) == 18

    async def test_what_waits_arrives_at_once(self, broker: RabbitBroker) -> None:
        async with opened(broker) as reading:
            waiting = asyncio.create_task(reading.next(10, RARELY))
            await asyncio.sleep(0)
            await broker.publish(QUEUE, packets(1))
            async with asyncio.timeout(PATIENT):
                assert len(await waiting) == 1

    async def test_a_cancelled_wait_loses_nothing(self, broker: RabbitBroker) -> None:
        async with opened(broker) as reading:
            waiting = asyncio.create_task(reading.next(10, 30.0))
            await asyncio.sleep(0.05)  # so that it waits; there is nothing to wait for
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await broker.publish(QUEUE, packets(3))
            assert await read(reading, 3) == [0, 1, 2]


class TestUnroutable:
    async def test_what_the_server_sends_back_is_not_taken(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        await admin.queue_delete(f"{prefix}.{QUEUE}.0")
        with pytest.raises(BrokerAway, match="no queue for 3 of 3 packets") as away:
            await broker.publish(QUEUE, packets(3))
        assert not away.value.sent
        await broker.publish(QUEUE, packets(3))
        async with opened(broker) as reading:
            assert await read(reading, 3) == [0, 1, 2]

    async def test_of_several_partitions_the_others_may_have_theirs(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        await broker.publish(QUEUE, [packet(0, 0), packet(1, 1)])
        await admin.queue_delete(f"{prefix}.{QUEUE}.0")
        with pytest.raises(BrokerAway, match="no queue for 1 of 2 packets") as away:
            await broker.publish(QUEUE, [packet(2, 0), packet(3, 1)])
        assert away.value.sent

    async def test_an_exchange_that_an_operator_deleted_is_declared_again(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        await admin.exchange_delete(f"{prefix}.{QUEUE}")
        with pytest.raises(BrokerAway, match="NOT_FOUND"):
            await broker.publish(QUEUE, packets(3))
        await broker.publish(QUEUE, packets(3, first=1))
        async with opened(broker) as reading:
            assert await read(reading, 4) == [0, 1, 2, 3]

    async def test_a_queue_that_an_operator_deleted_ends_the_reading(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        async with opened(broker) as reading:
            waiting = asyncio.create_task(reading.next(10, 30.0))
            await admin.queue_delete(f"{prefix}.{QUEUE}.0")
            with pytest.raises(ReadingLost):
                await waiting
        async with opened(broker) as reading:
            await broker.publish(QUEUE, packets(1))
            assert await read(reading, 1) == [0]

    async def test_queues_that_an_operator_deleted_are_made_again_together(
        self, broker: RabbitBroker, admin: AbstractChannel, prefix: str
    ) -> None:
        """The last one follows all partitions, so that none is the last that was made."""
        names = [f"{prefix}.{QUEUE}.{it}" for it in (*range(broker.partitions), "end")]
        async with opened(broker):
            for name in names:
                await admin.queue_delete(name)
        async with opened(broker):
            for name in names:
                await admin.queue_declare(name, passive=True)


class TestReaders:
    async def test_a_second_one_gets_nothing_until_the_first_one_leaves(
        self, broker: RabbitBroker, address: str
    ) -> None:
        await broker.publish(QUEUE, packets(20))
        async with client(address) as other, opened(broker) as first, opened(other) as second:
            assert await read(first, 3) == [0, 1, 2]
            assert await second.next(3, 0.3) == ()
            await first.done(3)
            assert await second.next(3, 0.3) == ()
            await first.aclose()
            assert await read(second, 17) == [*range(3, 20)]

    async def test_one_that_is_frozen_is_found_out_and_does_no_harm(
        self, broker: RabbitBroker, address: str
    ) -> None:
        await broker.publish(QUEUE, packets(20))
        async with another_process(address) as frozen:
            assert await frozen.line() == "took 20"
            began = time.monotonic()
            frozen.process.send_signal(signal.SIGSTOP)
            async with opened(broker) as reading:
                assert await read(reading, 20, wait=60.0) == [*range(20)]
                # With the heartbeats that the server asks for, each 60 s, it would take longer.
                assert time.monotonic() - began < 60
                await reading.done(10)
                frozen.process.send_signal(signal.SIGCONT)
                assert await frozen.line() == "away"

            async def are_back() -> bool:
                return await broker.waiting(QUEUE) == 10

            # What its reader leaves comes back a moment after that one has left.
            await until(are_back)

    async def test_a_closed_broker_ends_its_readings(self, broker: RabbitBroker) -> None:
        reading = await broker.open(QUEUE, 0)
        waiting = asyncio.create_task(reading.next(1, 30.0))
        await asyncio.sleep(0)
        await broker.aclose()
        await broker.aclose()
        with pytest.raises(BrokerAway):
            await waiting
        for asked in (
            broker.publish(QUEUE, packets(1)),
            broker.open(QUEUE, 0),
            broker.waiting(QUEUE),
        ):
            with pytest.raises(BrokerAway, match="closed"):
                await asked
        await reading.aclose()


class TestTrouble:
    @pytest.mark.timeout(300)
    async def test_killed_and_started_again_it_loses_nothing_and_inverts_no_key(
        self,
        server: RabbitServer,
        broker: RabbitBroker,
        address: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A queue that comes back may never answer: a reader that is patient would hang for long.
        monkeypatch.setattr(rabbitmq, "ANSWER_WITHIN", 5.0)
        async with client(address) as reader:
            traffic = Traffic(broker, reader, partitions=3, batches=60)

            async def death() -> None:
                await traffic.has_sent(60)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)

            async with asyncio.timeout(250):
                await traffic.run(death())
        traffic.require_all_in_order()
        async with client(address) as it:
            assert await it.waiting(QUEUE) == 0

    async def test_killed_as_soon_as_it_has_taken_them_it_keeps_the_first_of_a_new_queue(
        self, server: RabbitServer, broker: RabbitBroker
    ) -> None:
        def dies() -> None:
            server.kill()
            server.start()

        await require_first_kept(broker, dies)

    async def test_one_that_is_short_of_disk_takes_nothing_and_is_still_read(
        self, server: RabbitServer, broker: RabbitBroker
    ) -> None:
        await broker.publish(QUEUE, packets(5))
        server.run('rabbit_disk_monitor:set_disk_free_limit("900000GB")')
        try:
            with pytest.raises(BrokerAway, match="short of memory or disk"):
                async with asyncio.timeout(PATIENT):
                    for first in itertools.count(5, 5):  # the first ones may still be taken
                        await broker.publish(QUEUE, packets(5, first=first))
            with pytest.raises(BrokerAway, match="short of memory or disk") as away:
                await broker.publish(QUEUE, packets(5, first=100_000))
            assert not away.value.sent
            async with opened(broker) as reading:
                assert await read(reading, 5) == [0, 1, 2, 3, 4]
                await reading.done(5)
        finally:
            server.run('rabbit_disk_monitor:set_disk_free_limit("1MB")')

        async def is_taken() -> bool:
            try:
                await broker.publish(QUEUE, packets(5, first=200_000))
            except BrokerAway:
                return False
            return True

        await until(is_taken)
        async with opened(broker) as reading:
            found = await read_up_to(reading, 200_004)
        assert found[-5:] == [*range(200_000, 200_005)]
        assert not {*found} & {*range(100_000, 100_005)}, "what did not leave arrived"
        assert found == sorted(found)

    async def test_a_queue_that_is_full_says_so(
        self, server: RabbitServer, broker: RabbitBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        server.run(
            f'rabbit_policy:set(<<"/">>, <<"{prefix}">>, <<"^{prefix}">>, '
            '[{<<"max-length">>, 3}, {<<"overflow">>, <<"reject-publish">>}], '
            '0, <<"queues">>, <<"test">>)'
        )
        with pytest.raises(BrokerAway, match=r"did not keep \d+ of 2 packets") as away:
            async with asyncio.timeout(60):
                while True:
                    await broker.publish(QUEUE, packets(2, first=1))
        assert away.value.sent

    async def test_one_that_says_nothing_more_is_away(
        self, server: RabbitServer, prefix: str
    ) -> None:
        async with wire(server.url()) as air, client(over(air.port, prefix)) as broker:
            reading = await broker.open(QUEUE, 0)
            air.become(Weather.SILENT)
            with pytest.raises(BrokerAway):
                async with asyncio.timeout(60):
                    while True:
                        assert await reading.next(1, 5.0) == ()
            await reading.aclose()

    async def test_what_is_raised_is_not_logged_by_the_library_as_well(
        self, server: RabbitServer, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with wire(server.url()) as air, client(over(air.port, prefix)) as broker:
            reading = await broker.open(QUEUE, 0)
            air.become(Weather.PARTED)
            with pytest.raises(BrokerAway):
                async with asyncio.timeout(60):
                    while True:
                        assert await reading.next(1, 5.0) == ()
            await reading.aclose()
        async with client(over(free_port(), prefix)) as broker:
            with pytest.raises(BrokerAway):
                await broker.waiting(QUEUE)
        with pytest.raises(aiormq.exceptions.AMQPConnectionError):
            await aiormq.connect(f"amqp://127.0.0.1:{free_port()}")
        (another_s,) = [it for it in caplog.records if it.name.startswith("aiormq")]
        assert another_s.msg.startswith("error when creating transport")

    async def test_calls_that_are_cancelled_while_they_connect_leave_no_connection(
        self, server: RabbitServer, prefix: str
    ) -> None:
        # The server counts a client for a moment more after it has gone.
        await until(lambda: connections(server) == 0)
        async with wire(server.url()) as air, client(over(air.port, prefix)) as broker:
            air.become(Weather.SILENT)
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await broker.publish(QUEUE, packets(1))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await broker.open(QUEUE, 0)
            air.become(Weather.FAIR)
            await broker.publish(QUEUE, packets(1))
            await until(lambda: connections(server) == 1)
        await until(lambda: connections(server) == 0)

    async def test_of_several_servers_one_is_enough(
        self, server: RabbitServer, prefix: str
    ) -> None:
        servers = f"127.0.0.1:{free_port()},127.0.0.1:{server.port}"
        async with client(f"amqp://{servers}?partitions=4&prefix={prefix}") as broker:
            await broker.publish(QUEUE, packets(1))

    async def test_it_travels_over_tls_to_a_server_that_is_trusted(
        self, server: RabbitServer, prefix: str
    ) -> None:
        address = f"amqps://127.0.0.1:{server.tls_port}?partitions=4&prefix={prefix}"
        async with client(f"{address}&ca={CERTIFICATE}") as broker:
            await broker.publish(QUEUE, packets(1))
            assert await broker.waiting(QUEUE) == 1
        async with client(address) as broker:
            with pytest.raises(BrokerAway, match="CERTIFICATE_VERIFY_FAILED"):
                await broker.publish(QUEUE, packets(1))


def connections(server: RabbitServer) -> int:
    """How many clients the server has."""
    return int(server.run("length(rabbit_networking:connections())"))


def over(port: int, prefix: str) -> str:
    """The address of that end of a wire."""
    return f"amqp://127.0.0.1:{port}?partitions=4&prefix={prefix}"


_READER = """
import asyncio, sys
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import BrokerAway
from outbox.transports.brokers.rabbitmq import RabbitBroker

async def main():
    broker = RabbitBroker(BrokerAddress.parse(sys.argv[1]))
    reading = await broker.open(sys.argv[2], 0)
    found = 0
    while found < 20:
        found += len(await reading.next(20 - found, 10.0))
    print("took", found, flush=True)
    try:
        while True:
            await reading.next(1, 0.1)
    except BrokerAway:
        pass
    try:
        await reading.done(20)
    except BrokerAway:
        print("away", flush=True)
    await broker.aclose()

asyncio.run(main())
"""


class Other:
    """A reader in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()


@asynccontextmanager
async def another_process(address: str) -> AsyncIterator[Other]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _READER, address, QUEUE),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Other(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
