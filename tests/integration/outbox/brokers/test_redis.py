"""Redis as a broker, on real servers: what it keeps, whom it lets read, and what it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from redis import Redis
from redis import exceptions as errors

from outbox.errors import InvalidService
from outbox.transports.brokers import redis as redis_adapter
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerRefused,
    Packet,
    ReadingLost,
)
from outbox.transports.brokers.opening import broker_at
from outbox.transports.brokers.redis import RedisBroker
from outbox.transports.brokers.redis_streams import link
from outbox.transports.brokers.redis_streams.troubles import trouble
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.port import EventPacket, Start
from outbox.transports.brokers.topics.topic import Topic
from tests.support.brokers.redis_server import RedisServer, a_redis
from tests.support.brokers.traffic import (
    PATIENT,
    QUEUE,
    Traffic,
    opened,
    packet,
    packets,
    read,
    read_all,
    require_first_kept,
)
from tests.support.checkout import CERTIFICATE, ROOT
from tests.support.processes.waiting import RARELY, until

STREAM = f"sagabox:{QUEUE}:0"
WITH_TLS = (
    *("--tls-cert-file", str(CERTIFICATE), "--tls-key-file", str(CERTIFICATE)),
    *("--tls-ca-cert-file", str(CERTIFICATE), "--tls-auth-clients", "no"),
)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with a_redis() as it:
        yield it


@pytest.fixture
async def broker(server: RedisServer) -> AsyncIterator[RedisBroker]:
    async with client(server) as it:
        yield it


@asynccontextmanager
async def client(
    server: RedisServer, access: str = "", query: str = "partitions=4", database: int = 0
) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(BrokerAddress.parse(server.url(access, database, query)))
    try:
        yield broker
    finally:
        await broker.aclose()


@contextmanager
def admin(server: RedisServer) -> Iterator[Any]:
    with Redis(port=server.port, decode_responses=True) as it:
        yield it


async def refusal(server: RedisServer, access: str = "", query: str = "partitions=4") -> str:
    async with client(server, access, query) as it:
        with pytest.raises(BrokerRefused) as refused:
            await it.publish(QUEUE, packets(1))
    assert refused.value.next_step
    return str(refused.value)


class TestWhatItKeeps:
    async def test_a_packet_comes_out_as_it_went_in(self, broker: RedisBroker) -> None:
        given = Packet(3, {"content-type": "a/b", "x": "1 2"}, bytes(range(256)), "Zimmer 7 / ü")
        await broker.publish(QUEUE, [given])
        async with opened(broker, 3) as reading:
            (taken,) = await reading.next(10, PATIENT)
        assert taken.packet == given

    async def test_killed_and_started_again_it_loses_nothing_and_inverts_no_key(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        async with client(server) as reader:
            traffic = Traffic(broker, reader, partitions=3, batches=60)

            async def deaths() -> None:
                for kills in range(1, 6):
                    await traffic.has_sent(kills * 25)
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)

            async with asyncio.timeout(200):
                await traffic.run(deaths())
        traffic.require_all_in_order()
        assert await waiting(server) == 0

    async def test_killed_as_soon_as_it_has_taken_them_it_keeps_the_first_of_a_new_queue(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        def dies() -> None:
            server.kill()
            server.start()

        await require_first_kept(broker, dies)

    async def test_a_batch_of_which_a_part_is_refused_leaves_nothing(
        self, server: RedisServer
    ) -> None:
        with admin(server) as redis:
            redis.acl_setuser(
                "shop",
                enabled=True,
                passwords=["+secret"],
                keys=[STREAM, f"sagabox:{QUEUE}:partitions"],
                commands=["+@all"],
            )
            async with client(server, "shop:secret") as it:
                with pytest.raises(BrokerRefused):
                    await it.publish(QUEUE, [packet(0), packet(1, 1), packet(2)])
            assert redis.exists(STREAM) == 0

    async def test_where_a_key_is_used_otherwise_a_part_may_have_left(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        with admin(server) as redis:
            redis.set(f"sagabox:{QUEUE}:1", "no stream")
        with pytest.raises(BrokerAway, match="a part only") as away:
            await broker.publish(QUEUE, [packet(0), packet(1, 1)])
        assert away.value.sent

    async def test_when_it_is_full_nothing_has_left_and_it_can_still_be_read_empty(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(3))
        with admin(server) as redis:
            redis.config_set("maxmemory", "1mb")
            with pytest.raises(BrokerAway, match="full") as away:
                await broker.publish(QUEUE, packets(2, first=3))
            assert not away.value.sent
            async with opened(broker) as reading:
                assert await read(reading, 3) == [0, 1, 2]
                await reading.done(3)
            assert redis.xlen(STREAM) == 0
            redis.config_set("maxmemory", "0")
        await broker.publish(QUEUE, packets(2, first=3))
        async with opened(broker) as reading:
            assert await read(reading, 2) == [3, 4]

    async def test_databases_and_prefixes_are_apart(self, server: RedisServer) -> None:
        async with (
            client(server) as one,
            client(server, database=3) as two,
            client(server, query="partitions=4&prefix=other") as three,
        ):
            await one.publish(QUEUE, packets(1))
            await two.publish(QUEUE, packets(2))
            assert [await it.waiting(QUEUE) for it in (one, two, three)] == [1, 2, 0]


async def waiting(server: RedisServer) -> int:
    async with client(server) as it:
        return await it.waiting(QUEUE)


class TestWhoReads:
    async def test_a_reader_that_was_taken_over_neither_reads_nor_forgets(
        self, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(5))
        async with opened(broker) as frozen:
            assert await read(frozen, 3) == [0, 1, 2]
            async with opened(broker) as reading:
                with pytest.raises(ReadingLost):
                    await frozen.next(1, 0.1)
                with pytest.raises(ReadingLost):
                    await frozen.done(3)
                assert await read(reading, 5) == [0, 1, 2, 3, 4]
                await reading.done(2)
        async with opened(broker) as reading:
            assert await read_all(reading, 3) == [2, 3, 4]

    async def test_one_that_waits_is_told_before_it_returns(self, broker: RedisBroker) -> None:
        async with opened(broker) as old:
            following = asyncio.ensure_future(old.next(1, RARELY))
            async with opened(broker):
                await broker.publish(QUEUE, packets(1))  # which ends its wait
                with pytest.raises(ReadingLost):
                    await following

    async def test_what_a_group_has_given_to_other_consumers_comes_first(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        async with opened(broker):
            await broker.publish(QUEUE, packets(4))
        with admin(server) as redis:
            for name in ("one", "two"):
                redis.xreadgroup(QUEUE, name, {STREAM: ">"}, count=1)
        async with opened(broker) as reading:
            assert await read(reading, 4) == [0, 1, 2, 3]

    async def test_one_that_waits_is_woken_and_asks_seldom(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        async with opened(broker) as reading:
            await reading.next(1, 0.01)
            with admin(server) as redis:
                redis.config_resetstat()
                following = asyncio.ensure_future(reading.next(1, RARELY))
                # It blocks in the server by then, which is the signal that is waited for.
                await until(lambda: redis.info("clients")["blocked_clients"] == 1)
                await broker.publish(QUEUE, packets(1))
                async with asyncio.timeout(PATIENT):
                    assert [it.packet for it in await following] == packets(1)
                calls = redis.info("commandstats")
            assert calls["cmdstat_xread"]["calls"] == 1
            assert calls["cmdstat_xreadgroup"]["calls"] == 2

    async def test_several_partitions_are_read_side_by_side(self, broker: RedisBroker) -> None:
        await broker.publish(QUEUE, [packet(n, n % 2) for n in range(6)])
        async with opened(broker, 0) as one, opened(broker, 1) as two:
            assert await read(two, 3) == [1, 3, 5]
            assert await read(one, 3) == [0, 2, 4]

    async def test_a_group_that_an_operator_destroyed_ends_the_reading(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(2))
        async with opened(broker) as reading:
            with admin(server) as redis:
                redis.xgroup_destroy(STREAM, QUEUE)
            with pytest.raises(ReadingLost):
                await reading.next(1, 0.1)
        async with opened(broker) as reading:
            assert await read(reading, 2) == [0, 1]

    async def test_an_entry_that_an_operator_deleted_holds_up_nothing(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(3))
        async with opened(broker) as reading:
            (first,) = await reading.next(1, PATIENT)
        with admin(server) as redis:
            redis.xdel(STREAM, first.position)
            async with opened(broker) as reading:
                assert await read(reading, 2) == [1, 2]
                await reading.done(2)
            assert redis.xlen(STREAM) == 0

    async def test_a_server_that_says_nothing_more_is_away(
        self, server: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        async with opened(broker) as reading:
            assert await read(reading, 1) == [0]
            server.freeze()
            with monkeypatch.context() as patch:
                patch.setattr(redis_adapter, "ANSWER_WITHIN", 0.3)
                patch.setattr(link, "ANSWER_WITHIN", 0.3)
                with pytest.raises(BrokerAway):
                    await reading.next(1, 0.1)
                for is_connected in (True, False):
                    with pytest.raises(BrokerAway) as away:
                        await broker.publish(QUEUE, packets(1))
                    assert away.value.sent is is_connected
                with pytest.raises(BrokerAway):
                    await broker.open(QUEUE, 0)
            server.thaw()
        await broker.publish(QUEUE, packets(1))

    async def test_a_reading_of_which_a_wait_was_cancelled_can_only_be_closed(
        self, broker: RedisBroker
    ) -> None:
        async with opened(broker) as reading:
            following = asyncio.ensure_future(reading.next(1, 30.0))
            await asyncio.wait([following], timeout=0.1)
            following.cancel()
            await asyncio.wait([following])
            await broker.publish(QUEUE, packets(1))
            with pytest.raises(BrokerAway):
                await reading.next(1, 0.1)
        async with opened(broker) as reading:
            assert await read(reading, 1) == [0]

    async def test_a_closed_broker_ends_its_readings(self, broker: RedisBroker) -> None:
        async with opened(broker) as reading:
            following = asyncio.ensure_future(reading.next(1, 30.0))
            await asyncio.sleep(0)
            await broker.aclose()
            with pytest.raises(BrokerAway):
                await following
        with pytest.raises(BrokerAway) as away:
            await broker.open(QUEUE, 0)
        assert not away.value.sent


class TestTrimming:
    async def test_what_is_done_is_gone(self, server: RedisServer, broker: RedisBroker) -> None:
        await broker.publish(QUEUE, packets(4))
        with admin(server) as redis:
            async with opened(broker) as reading:
                await read(reading, 3)
                await reading.done(2)
                assert redis.xlen(STREAM) == 2
                assert await broker.waiting(QUEUE) == 2

    async def test_what_another_group_has_not_acknowledged_stays(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(4))
        with admin(server) as redis:
            redis.xgroup_create(STREAM, "audit", "0")
            (_, found), *_ = redis.xreadgroup("audit", "it", {STREAM: ">"}, count=2)
            async with opened(broker) as reading:
                await read(reading, 4)
                await reading.done(3)
                assert redis.xlen(STREAM) == 4
                assert await broker.waiting(QUEUE) == 1
                redis.xack(STREAM, "audit", found[0][0])
                await reading.done(1)
                assert [it["body"] for _, it in redis.xrange(STREAM)] == ["1", "2", "3"]
                assert await broker.waiting(QUEUE) == 0

    async def test_many_are_done_at_once(self, server: RedisServer, broker: RedisBroker) -> None:
        await broker.publish(QUEUE, packets(2500))
        async with opened(broker) as reading:
            assert len(await read(reading, 2500)) == 2500
            await reading.done(2500)
        with admin(server) as redis:
            assert redis.xlen(STREAM) == 0


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("appendonly", "no"),
            ("appendfsync", "everysec"),
            ("no-appendfsync-on-rewrite", "yes"),
            ("maxmemory-policy", "allkeys-lru"),
        ],
    )
    async def test_a_server_that_may_lose_what_it_confirmed(
        self, server: RedisServer, name: str, value: str
    ) -> None:
        with admin(server) as redis:
            redis.config_set(name, value)
        assert f"{name} {value}" in await refusal(server)
        assert f"{name} {value}" in await refusal(server, query="partitions=4&durable=assumed")

    async def test_all_that_is_wrong_is_told_at_once(self, server: RedisServer) -> None:
        with admin(server) as redis:
            redis.config_set("appendonly", "no")
            redis.config_set("appendfsync", "everysec")
        refused = await refusal(server)
        assert "set appendonly to yes, appendfsync to always in its configuration" in refused

    async def test_one_that_does_not_tell_unless_it_is_assumed_to_be_durable(
        self, server: RedisServer
    ) -> None:
        with admin(server) as redis:
            redis.acl_setuser(
                "shop",
                enabled=True,
                passwords=["+secret"],
                keys=["sagabox:*"],
                commands=["+@all", "-config"],
            )
        assert "durable=assumed" in await refusal(server, "shop:secret")
        async with client(server, "shop:secret", "partitions=4&durable=assumed") as it:
            await it.publish(QUEUE, packets(1))

    async def test_wrong_credentials(self, server: RedisServer) -> None:
        with admin(server) as redis:
            redis.acl_setuser(
                "shop", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"]
            )
            redis.acl_setuser("default", enabled=True, passwords=["+other"])
        assert "refuses the credentials" in await refusal(server)
        words = await refusal(server, "shop:not-it")
        assert "refuses the credentials" in words
        assert "not-it" not in words
        async with client(server, "shop:secret") as it:
            await it.publish(QUEUE, packets(1))
        async with client(server, ":other") as it:
            assert await it.waiting(QUEUE) == 1

    async def test_a_user_without_the_rights(self, server: RedisServer) -> None:
        rights = ["+eval", "+get", "+set", "+multi", "+exec", "+config|get", "+select"]
        with admin(server) as redis:
            redis.acl_setuser(
                "shop", enabled=True, passwords=["+secret"], keys=["sagabox:*"], commands=rights
            )
            assert "does not let this user" in await refusal(server, "shop:secret")
            async with client(server, "shop:secret") as it:
                with pytest.raises(BrokerRefused, match="does not let this user"):
                    await it.open(QUEUE, 0)
            refused = await refusal(server, "shop:secret", "partitions=4&prefix=other")
            assert "does not let this user" in refused

    async def test_the_rights_that_the_page_lists_suffice(self, server: RedisServer) -> None:
        with admin(server) as redis:
            redis.acl_setuser(
                "shop",
                enabled=True,
                passwords=["+secret"],
                keys=["sagabox:*"],
                commands=rights_on_the_page(),
            )
        async with client(server, "shop:secret") as it:
            await it.publish(QUEUE, packets(2))
            async with opened(it) as reading:
                assert await read(reading, 2) == [0, 1]
                await reading.done(2)
                assert await reading.next(1, 0.05) == []
            assert await it.waiting(QUEUE) == 0

    async def test_with_the_key_of_a_topic_they_are_enough_for_that(
        self, server: RedisServer
    ) -> None:
        with admin(server) as redis:
            redis.xgroup_create("orders", "theirs", mkstream=True)
            redis.acl_setuser(
                "shop",
                enabled=True,
                passwords=["+secret"],
                keys=["sagabox:*", "orders"],
                commands=rights_on_the_page(),
            )
        topic = Topic(server.url("shop:secret"), "orders")
        topics = client_of(topic)
        try:
            await topics.require(topic)
            await topics.publish_to(topic, [EventPacket(0, {"ce-id": "1"}, b"0")])
            reading = await topics.follow(topic, "shop", Start.FIRST)
            assert await read(reading, 1) == [0]
            assert await topics.behind(topic, "shop") == 1
            await reading.done(1)
            await reading.aclose()
            assert await topics.behind(topic, "shop") == 0
        finally:
            await topics.aclose()

    async def test_a_replica(self, server: RedisServer, broker: RedisBroker) -> None:
        await broker.publish(QUEUE, packets(1))
        async with a_redis("--replicaof", f"127.0.0.1 {server.port}") as replica:
            assert "is a replica" in await refusal(replica)
            with admin(server) as redis, admin(replica) as other:
                other.replicaof("NO", "ONE")
                redis.replicaof("127.0.0.1", replica.port)
                with pytest.raises(BrokerRefused, match="is a replica"):
                    await broker.publish(QUEUE, packets(1, first=1))
                redis.replicaof("NO", "ONE")
                await broker.publish(QUEUE, packets(1, first=2))

    async def test_a_cluster(self) -> None:
        async with a_redis("--cluster-enabled", "yes") as server:
            assert "is a Redis cluster" in await refusal(server)

    async def test_another_number_of_partitions(
        self, server: RedisServer, broker: RedisBroker
    ) -> None:
        await broker.publish(QUEUE, packets(1))
        assert "has 4 partitions" in await refusal(server, query="partitions=8")
        async with client(server, query="partitions=8") as other:
            with pytest.raises(BrokerRefused, match="partitions=4"):
                await other.open(QUEUE, 0)
            with pytest.raises(BrokerRefused, match="partitions=4"):
                await other.waiting(QUEUE)

    @pytest.mark.parametrize(
        "text",
        [
            "redis://one,two",
            "redis://one/shop",
            "redis://one?durable=no",
            "redis://one?sentinel=yes",
        ],
    )
    def test_addresses_with_what_redis_has_not(self, text: str) -> None:
        with pytest.raises(InvalidService):
            broker_at(text)


def rights_on_the_page() -> list[str]:
    page = (ROOT / "docs" / "operate" / "redis.md").read_text("utf-8")
    (line,) = [it for it in page.splitlines() if it.startswith("ACL SETUSER shop on >secret ")]
    return [it for it in line.split() if it.startswith("+")]


async def test_it_travels_over_tls_to_a_server_that_is_trusted() -> None:
    async with a_redis(*WITH_TLS, tls=True) as server:
        async with client(server, query=f"partitions=4&ca={CERTIFICATE}") as it:
            await it.publish(QUEUE, packets(1))
            assert await it.waiting(QUEUE) == 1
        assert "is not trusted" in await refusal(server)


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (errors.BusyLoadingError("Redis is loading the dataset in memory"), False),
        (errors.OutOfMemoryError("command not allowed"), False),
        (errors.ResponseError("MISCONF Redis is configured to save"), False),
        (errors.ResponseError("NOREPLICAS Not enough good replicas to write."), False),
        (errors.ConnectionError("Connection closed by server."), True),
        (OSError("broken"), True),
    ],
)
def test_what_passes_is_no_refusal(error: Exception, sent: bool) -> None:
    away = trouble(error, "redis at one:6379", sent=True)
    assert isinstance(away, BrokerAway)
    assert away.sent is sent
