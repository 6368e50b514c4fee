"""NATS JetStream as a broker, on real servers: what it keeps, in which order, and who reads it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerRefused,
    Packet,
    PacketRefused,
    ReadingLost,
)
from outbox.transports.brokers.jetstream import connection as connections
from outbox.transports.brokers.jetstream import reading as readings
from outbox.transports.brokers.jetstream.connection import Connection
from outbox.transports.brokers.nats import AS_ONE, NatsBroker
from tests.support.brokers.late_wire import late_wire
from tests.support.brokers.nats_server import NatsServer, a_nats_server
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
    require_first_kept,
)
from tests.support.databases.full_disks import small_disk
from tests.support.processes.waiting import RARELY, until

_prefixes = (f"test{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """One for all that does it no harm; each test has a prefix of its own."""
    with a_nats_server(jetstream="") as it:
        yield it


@pytest.fixture
def prefix() -> str:
    return next(_prefixes)


@asynccontextmanager
async def client(
    server: NatsServer, prefix: str = "sagabox", partitions: int = 4
) -> AsyncIterator[NatsBroker]:
    query = f"partitions={partitions}&prefix={prefix}"
    broker = NatsBroker(BrokerAddress.parse(server.url(query)))
    try:
        yield broker
    finally:
        await broker.aclose()


@pytest.fixture
async def broker(server: NatsServer, prefix: str) -> AsyncIterator[NatsBroker]:
    async with client(server, prefix) as it:
        yield it


@asynccontextmanager
async def admin(server: NatsServer) -> AsyncIterator[Connection]:
    connection = await Connection.to(BrokerAddress.parse(server.url()))
    try:
        yield connection
    finally:
        await connection.close()


def a_stream(prefix: str, **changes: Any) -> dict[str, Any]:
    """The stream of the queue, as a person would make it by hand."""
    return {
        "name": f"{prefix}_{QUEUE}",
        "subjects": [f"{prefix}.{QUEUE}.{it}" for it in range(4)],
        "storage": "file",
        "retention": "workqueue",
        "discard": "new",
        **changes,
    }


async def make(server: NatsServer, config: Mapping[str, Any]) -> None:
    async with admin(server) as it:
        await it.api(f"STREAM.CREATE.{config['name']}", config)


async def consumers(server: NatsServer, prefix: str) -> list[str]:
    async with admin(server) as it:
        told = await it.api(f"CONSUMER.NAMES.{prefix}_{QUEUE}")
    return list(told["consumers"])


def of_one_key(*sizes: int) -> list[Packet]:
    return [Packet(0, {}, b"%d" % number + b" " * size, "k") for number, size in enumerate(sizes)]


class TestWhatItKeeps:
    async def test_a_packet_comes_out_as_it_went_in(self, broker: NatsBroker) -> None:
        given = Packet(3, {"content-type": "a/b", "x": "1 2"}, bytes(range(256)))
        await broker.publish(QUEUE, [given])
        async with opened(broker, 3) as reading:
            (taken,) = await reading.next(10, PATIENT)
        assert taken.packet == given

    @pytest.mark.parametrize("count", [AS_ONE - 1, AS_ONE, 2500], ids=str)
    async def test_few_and_many_come_in_their_order(self, broker: NatsBroker, count: int) -> None:
        given = [Packet(it.partition, {"x": "1"}, it.body, "k") for it in packets(count, 2)]
        await broker.publish(QUEUE, given)
        async with opened(broker, 2) as reading:
            assert await read(reading, count) == [*range(count)]
            await reading.done(count)
            assert await reading.next(1, 0.05) == []
        assert await broker.waiting(QUEUE) == 0

    async def test_headers_of_the_server_do_not_come_out(self, broker: NatsBroker) -> None:
        await broker.publish(QUEUE, packets(AS_ONE))
        async with opened(broker) as reading:
            for each in await reading.next(AS_ONE, PATIENT):
                assert each.packet.headers == {"content-type": "text/plain"}

    async def test_what_is_sent_twice_is_there_twice(self, broker: NatsBroker) -> None:
        for _ in range(2):
            await broker.publish(QUEUE, packets(3))
        for _ in range(2):
            await broker.publish(QUEUE, packets(AS_ONE))
        async with opened(broker) as reading:
            came = await read(reading, 6 + 2 * AS_ONE)
        assert came == [0, 1, 2] * 2 + [*range(AS_ONE)] * 2
        assert not broker.features.dedupes

    async def test_what_is_not_done_comes_again(self, broker: NatsBroker) -> None:
        await broker.publish(QUEUE, packets(5))
        async with opened(broker) as reading:
            assert await read(reading, 4) == [0, 1, 2, 3]
            await reading.done(1)
            await reading.done(2)
            assert await broker.waiting(QUEUE) == 2
            assert await read(reading, 1) == [4]
        async with opened(broker) as reading:
            assert await read_all(reading, 2) == [3, 4]

    async def test_a_queue_without_clients_has_nothing(self, broker: NatsBroker) -> None:
        assert await broker.waiting(QUEUE) == 0
        async with opened(broker) as reading:
            assert await reading.next(1, 0.05) == []

    async def test_names_that_nats_refuses_are_written_otherwise(self, broker: NatsBroker) -> None:
        queues = ["my.shop", "my shop", "my*shop", "my>shop", "my/shop", "my=2e=shop", "büro"]
        for number, queue in enumerate(queues):
            await broker.publish(queue, [packet(number)])
        for number, queue in enumerate(queues):
            reading = await broker.open(queue, 0)
            assert await read_all(reading, 1) == [number]
            await reading.aclose()

    async def test_a_server_of_the_address_that_is_gone_is_passed_over(
        self, server: NatsServer, prefix: str
    ) -> None:
        address = f"nats://127.0.0.1:1,127.0.0.1:{server.port}?prefix={prefix}"
        broker = NatsBroker(BrokerAddress.parse(address))
        await broker.publish(QUEUE, packets(1))
        assert await broker.waiting(QUEUE) == 1
        await broker.aclose()

    async def test_a_call_that_is_cancelled_while_it_connects_leaves_nothing_behind(
        self, broker: NatsBroker
    ) -> None:
        call = asyncio.ensure_future(broker.publish(QUEUE, packets(1)))
        await asyncio.wait([call], timeout=0.001)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await broker.publish(QUEUE, packets(1))

    async def test_one_that_is_closed_while_it_connects_is_closed(self, broker: NatsBroker) -> None:
        call = asyncio.ensure_future(broker.publish(QUEUE, packets(1)))
        await asyncio.wait([call], timeout=0.001)
        await broker.aclose()
        with pytest.raises(BrokerAway):
            await call

    async def test_a_cancelled_call_does_not_disturb_the_next(self, broker: NatsBroker) -> None:
        await broker.publish(QUEUE, packets(1))
        calls = [asyncio.ensure_future(broker.publish(QUEUE, packets(3, 1))) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await broker.publish(QUEUE, packets(3, 2))
        async with opened(broker, 2) as reading:
            assert await read(reading, 3) == [0, 1, 2]
        assert len([it for it in calls if not it.cancelled() and it.exception() is None]) == 10


class TestWhatIsFull:
    async def test_nothing_of_a_key_is_taken_that_follows_what_was_refused(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await make(server, a_stream(prefix, max_bytes=2000))
        given = [*of_one_key(0, 5000, 0), Packet(1, {}, b"7", "other")]
        with pytest.raises(BrokerAway, match="maximum bytes") as away:
            await broker.publish(QUEUE, given)
        assert away.value.sent
        assert await broker.waiting(QUEUE) == 1
        async with opened(broker) as reading:
            assert await read_all(reading, 1) == [0]

    async def test_one_that_refuses_all_has_nothing(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await make(server, a_stream(prefix, max_msgs=1))
        await broker.publish(QUEUE, [packet(0)])
        with pytest.raises(BrokerAway, match="maximum messages") as away:
            await broker.publish(QUEUE, packets(3, first=1))
        assert not away.value.sent
        assert await broker.waiting(QUEUE) == 1

    async def test_of_many_as_one_it_keeps_nothing(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await make(server, a_stream(prefix, max_msgs=AS_ONE, allow_atomic=True))
        await broker.publish(QUEUE, [packet(0)])
        with pytest.raises(BrokerAway, match="maximum messages") as away:
            await broker.publish(QUEUE, packets(AS_ONE, first=1))
        assert not away.value.sent
        await broker.publish(QUEUE, packets(AS_ONE - 1, first=1))
        async with opened(broker) as reading:
            assert await read(reading, AS_ONE) == [*range(AS_ONE)]

    async def test_where_many_cannot_be_one_they_go_one_after_the_other(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await make(server, a_stream(prefix, max_bytes=2000))
        with pytest.raises(BrokerAway, match="maximum bytes"):
            await broker.publish(QUEUE, of_one_key(*[0] * AS_ONE, 5000, 0))
        async with opened(broker) as reading:
            assert await read_all(reading, AS_ONE) == [*range(AS_ONE)]

    @pytest.mark.parametrize("is_full", [False, True])
    async def test_a_server_that_takes_no_batch_now_gets_them_one_after_the_other(
        self, server: NatsServer, broker: NatsBroker, prefix: str, is_full: bool
    ) -> None:
        await make(server, a_stream(prefix, allow_atomic=True))
        await broker.publish(QUEUE, packets(AS_ONE))
        async with admin(server) as it:
            if is_full:
                # As many as a stream may have are begun, and none of them ends.
                for number in range(50):
                    headers = {"Nats-Batch-Id": f"b{number}", "Nats-Batch-Sequence": "1"}
                    assert not (await (await it.ask(f"{prefix}.{QUEUE}.3", b"", headers))).data
            else:
                await it.api(f"STREAM.UPDATE.{prefix}_{QUEUE}", a_stream(prefix))
            await broker.publish(QUEUE, packets(AS_ONE, first=AS_ONE))
        async with opened(broker) as reading:
            assert await read(reading, 2 * AS_ONE) == [*range(2 * AS_ONE)]

    async def test_a_server_without_room_says_so(self) -> None:
        with a_nats_server(jetstream="max_file_store: 64KB") as server:
            async with client(server) as broker:
                big = [Packet(0, {}, bytes(10_000), str(it)) for it in range(10)]
                with pytest.raises(BrokerAway, match=r"resources|storage"):
                    await broker.publish(QUEUE, big)


class TestWhatIsTooLarge:
    async def test_it_is_refused_and_nothing_is_sent(self, broker: NatsBroker) -> None:
        assert broker.features.largest is None
        await broker.publish(QUEUE, [packet(0)])
        largest = broker.features.largest
        assert largest is not None
        await broker.publish(QUEUE, [Packet(0, {"x": "y" * 3000}, bytes(largest), "")])
        for big in (
            Packet(0, {}, bytes(largest + 4096)),
            Packet(0, {"x": "y" * 5000}, bytes(largest)),
        ):
            with pytest.raises(PacketRefused, match="larger than"):
                await broker.publish(QUEUE, [packet(1), big, packet(2)])
        assert await broker.waiting(QUEUE) == 2

    async def test_the_limit_of_the_stream_counts_too(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await make(server, a_stream(prefix, max_msg_size=1000))
        await broker.publish(QUEUE, [Packet(0, {}, bytes(700))])
        with pytest.raises(PacketRefused, match=f"{prefix}_{QUEUE}"):
            await broker.publish(QUEUE, [Packet(0, {}, bytes(1001))])


class TestWhoReads:
    async def test_a_reader_that_was_taken_over_neither_reads_nor_forgets(
        self, broker: NatsBroker
    ) -> None:
        await broker.publish(QUEUE, packets(5))
        async with opened(broker) as frozen:
            assert await read(frozen, 3) == [0, 1, 2]
            async with opened(broker) as reading:
                with pytest.raises(ReadingLost):
                    await frozen.next(1, PATIENT)
                with pytest.raises(ReadingLost):
                    await frozen.done(3)
                assert await read(reading, 5) == [0, 1, 2, 3, 4]
                await reading.done(2)
        async with opened(broker) as reading:
            assert await read_all(reading, 3) == [2, 3, 4]

    async def test_its_acknowledgements_alone_tell_it_so(self, broker: NatsBroker) -> None:
        await broker.publish(QUEUE, packets(3))
        async with opened(broker) as frozen:
            assert await read(frozen, 3) == [0, 1, 2]
            async with opened(broker) as reading:
                with pytest.raises(ReadingLost):
                    await frozen.done(3)
                assert await read(reading, 3) == [0, 1, 2]

    async def test_one_that_waits_is_told_before_it_returns(self, broker: NatsBroker) -> None:
        async with opened(broker) as old:
            following = asyncio.ensure_future(old.next(1, RARELY))
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENT), opened(broker):
                with pytest.raises(ReadingLost):
                    await following

    async def test_of_many_that_take_over_at_once_one_reads(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(3))
        taken = await asyncio.gather(*(broker.open(QUEUE, 0) for _ in range(6)))
        assert len(await consumers(server, prefix)) == 1
        came = await asyncio.gather(*(read(it, 3) for it in taken), return_exceptions=True)
        assert sum(it == [0, 1, 2] for it in came) == 1
        assert sum(isinstance(it, ReadingLost) for it in came) == 5
        for reading in taken:
            await reading.aclose()

        async def none_is_left() -> bool:
            return await consumers(server, prefix) == []

        # A reader that leaves asks for that, and does not wait for the answer for long.
        await until(none_is_left)

    async def test_other_partitions_are_left_to_their_readers(self, broker: NatsBroker) -> None:
        await broker.publish(QUEUE, [packet(n, n % 2) for n in range(6)])
        async with opened(broker, 0) as one, opened(broker, 1) as two:
            assert await read(two, 3) == [1, 3, 5]
            assert await read(one, 3) == [0, 2, 4]
            await two.done(3)
            await one.done(3)

    async def test_what_waits_arrives_at_once(self, broker: NatsBroker) -> None:
        async with opened(broker) as reading:
            following = asyncio.ensure_future(reading.next(1, RARELY))
            await asyncio.sleep(0)
            await broker.publish(QUEUE, packets(1))
            async with asyncio.timeout(PATIENT):
                assert [int(it.packet.body) for it in await following] == [0]

    async def test_a_cancelled_wait_loses_nothing(self, broker: NatsBroker) -> None:
        async with opened(broker) as reading:
            following = asyncio.ensure_future(reading.next(1, 30.0))
            await asyncio.wait([following], timeout=0.05)
            following.cancel()
            await asyncio.wait([following])
            await broker.publish(QUEUE, packets(5))
            assert await read(reading, 5) == [0, 1, 2, 3, 4]

    async def test_what_is_in_hand_for_long_is_given_once(
        self, broker: NatsBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readings, "_ACK_WAIT", 100_000_000)
        await broker.publish(QUEUE, packets(3))
        async with opened(broker) as reading:
            assert await read(reading, 3) == [0, 1, 2]
            # The server gives them again after 0.1 s, while a request of the reading is open.
            assert await reading.next(10, 0.5) == []
            await broker.publish(QUEUE, packets(2, first=3))
            assert await read(reading, 2) == [3, 4]
            await reading.done(5)
        assert await broker.waiting(QUEUE) == 0

    async def test_a_gap_is_noticed(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(4))
        async with opened(broker) as reading:
            assert await read(reading, 1) == [0]
            (name,) = await consumers(server, prefix)
            thief = await nats.connect(server.url())
            stolen = await thief.subscribe("stolen")
            ask = f"$JS.API.CONSUMER.MSG.NEXT.{prefix}_{QUEUE}.{name}"
            await thief.publish(ask, json.dumps({"batch": 1}).encode(), reply="stolen")
            assert (await stolen.next_msg(PATIENT)).data == b"1"
            await thief.close()
            with pytest.raises(BrokerAway, match="did not arrive"):
                await reading.next(1, PATIENT)
        async with opened(broker) as reading:
            assert await read(reading, 4) == [0, 1, 2, 3]

    async def test_a_stream_that_an_operator_deleted_ends_the_reading(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(2))
        async with opened(broker) as reading:
            async with admin(server) as it:
                await it.api(f"STREAM.DELETE.{prefix}_{QUEUE}")
            with pytest.raises((ReadingLost, BrokerAway)):
                await reading.next(10, PATIENT)
                await reading.next(10, PATIENT)
        with pytest.raises(BrokerAway) as away:
            await broker.publish(QUEUE, packets(1))
        assert not away.value.sent
        await broker.publish(QUEUE, packets(1))
        assert await broker.waiting(QUEUE) == 1

    async def test_an_answer_of_another_stream_is_none(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        async with admin(server) as it:
            await it.api(f"STREAM.DELETE.{prefix}_{QUEUE}")
            other = {"name": f"other-{prefix}", "subjects": [f"{prefix}.>"], "storage": "memory"}
            await it.api(f"STREAM.CREATE.other-{prefix}", other)
        with pytest.raises(BrokerAway, match="another stream") as away:
            await broker.publish(QUEUE, packets(1))
        assert away.value.sent
        with pytest.raises(BrokerRefused, match="overlap"):
            await broker.publish(QUEUE, packets(1))

    async def test_an_answer_of_another_client_is_none(
        self, server: NatsServer, broker: NatsBroker, prefix: str
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        stranger = await nats.connect(server.url())

        async def answer(message: Msg) -> None:
            await message.respond(b"thank you")

        await stranger.subscribe(f"{prefix}.{QUEUE}.*", cb=answer)
        await stranger.flush()
        async with admin(server) as it:
            await it.api(f"STREAM.DELETE.{prefix}_{QUEUE}")
        with pytest.raises(BrokerAway, match="another client"):
            await broker.publish(QUEUE, packets(1))
        await stranger.close()

    async def test_a_closed_broker_ends_its_readings(self, broker: NatsBroker) -> None:
        async with opened(broker) as reading:
            following = asyncio.ensure_future(reading.next(1, 30.0))
            await asyncio.sleep(0)
            await broker.aclose()
            with pytest.raises(BrokerAway):
                await following
        with pytest.raises(BrokerAway) as away:
            await broker.open(QUEUE, 0)
        assert not away.value.sent


class TestWiresThatBreak:
    @pytest.mark.parametrize("size", [5, AS_ONE + 5])
    async def test_what_arrives_late_on_a_broken_wire_inverts_no_key(
        self, server: NatsServer, prefix: str, size: int
    ) -> None:
        async with late_wire(server.port, breaks=15, seed=size) as wire:
            query = f"partitions=4&prefix={prefix}"
            address = BrokerAddress.parse(f"nats://127.0.0.1:{wire.port}?{query}")
            sender, reader = NatsBroker(address), NatsBroker(address)
            traffic = Traffic(sender, reader, partitions=4, batches=600 // size, size=size)
            async with asyncio.timeout(200):
                await traffic.run()
            traffic.require_all_in_order()
            assert wire.breaks == 0
            assert wire.late > 0
            assert traffic.again > 0
            await sender.aclose()
            await reader.aclose()


class TestAServerThatDies:
    async def test_killed_and_started_again_it_loses_nothing_and_inverts_no_key(self) -> None:
        with a_nats_server() as server:
            async with client(server) as sender, client(server) as reader:
                traffic = Traffic(sender, reader, partitions=4, batches=30, size=25)

                async def deaths() -> None:
                    for kills in range(1, 6):
                        await traffic.has_sent(kills * 20)
                        await asyncio.to_thread(server.kill)
                        await asyncio.to_thread(server.start)

                async with asyncio.timeout(200):
                    await traffic.run(deaths())
                traffic.require_all_in_order()
                assert await insisting(lambda: sender.waiting(QUEUE)) == 0

    async def test_killed_as_soon_as_it_has_taken_them_it_keeps_the_first_of_a_new_queue(
        self,
    ) -> None:
        with a_nats_server() as server:

            def dies() -> None:
                server.kill()
                server.start()

            async with client(server) as broker:
                await require_first_kept(broker, dies)

    async def test_a_reader_that_is_frozen_and_taken_over_does_no_harm(self) -> None:
        with a_nats_server() as server:
            async with client(server) as broker, client(server) as other:
                await broker.publish(QUEUE, packets(4))
                async with opened(broker) as frozen:
                    assert await read(frozen, 2) == [0, 1]
                    async with opened(other) as reading:
                        assert await read(reading, 4) == [0, 1, 2, 3]
                        await reading.done(1)
                        with pytest.raises(ReadingLost):
                            await frozen.done(2)
                        await reading.done(3)
                assert await broker.waiting(QUEUE) == 0

    async def test_on_a_full_disk_it_has_all_that_it_answered_for(self, tmp_path: Path) -> None:
        with small_disk(tmp_path) as disk, a_nats_server(data=disk.folder) as server:
            async with client(server) as broker:
                await broker.publish(QUEUE, packets(5))
                disk.fill()
                for number in (5, 6):
                    # NATS says nothing at all then, and goes on with that until it is started anew.
                    with pytest.raises((BrokerAway, TimeoutError)):
                        async with asyncio.timeout(0.5):
                            big = Packet(0, {}, b"%d" % number + b" " * 300_000, "k")
                            await broker.publish(QUEUE, [big])
                disk.free()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            async with client(server) as broker:
                await broker.publish(QUEUE, packets(2, first=7))
                async with opened(broker) as reading:
                    came = await read_up_to(reading, 8)
                assert came[:5] == [0, 1, 2, 3, 4]
                assert came[-2:] == [7, 8]

    async def test_one_that_says_nothing_more_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with a_nats_server() as server:
            async with client(server) as broker, client(server) as hasty:
                await broker.publish(QUEUE, packets(1))
                async with opened(broker) as reading:
                    assert await read(reading, 1) == [0]
                    with monkeypatch.context() as patch:
                        patch.setattr(readings, "_LATE", 0.2)
                        patch.setattr(connections, "ANSWERING", 1.0)
                        patch.setattr(connections, "CONNECTING", 1.0)
                        await insisting(lambda: hasty.publish(QUEUE, ()))
                        server.freeze()
                        with pytest.raises(BrokerAway):
                            await reading.next(1, 0.1)
                        with pytest.raises(BrokerAway):
                            await hasty.open(QUEUE, 0)
                        with pytest.raises(BrokerAway) as away:
                            await hasty.publish(QUEUE, packets(1))
                    assert away.value.sent in (True, False)
                    server.thaw()
                await hasty.publish(QUEUE, packets(1))
