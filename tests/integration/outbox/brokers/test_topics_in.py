"""Messages of others: a service follows their topic, and each becomes an event that takes effect
once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from outbox.clock import SystemClock
from outbox.errors import InvalidService
from outbox.inbox.handlers import Context
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerRefused,
    Reading,
    ReadingLost,
    Taken,
)
from outbox.transports.brokers.held import operators
from outbox.transports.brokers.held.operators import Selection
from outbox.transports.brokers.held.rows import State
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.port import Start, TopicClient
from tests.support.brokers.strangers import STRANGERS, AtRedis, Stranger, at_rabbit
from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import Noted, ledger, ledger_schema
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import until

Map = Callable[[outbox.ForeignMessage], outbox.Message | None]


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture(params=STRANGERS)
async def stranger(request: pytest.FixtureRequest) -> AsyncIterator[Stranger]:
    async with STRANGERS[request.param]() as it:
        await it.make()
        yield it


def noted(message: outbox.ForeignMessage) -> Noted | None:
    """Orders of others as notes; what is about the weather is for another service."""
    order = message.json()
    if "weather" in order:
        return None
    return Noted(order["customer"], str(order["number"]))


@asynccontextmanager
async def till(
    engine: AsyncEngine, topic: outbox.Topic, map: Map = noted, **options: Any
) -> AsyncIterator[outbox.Service]:
    """A service that follows the topic, and writes what it handled into the ledger."""
    service = make_service(engine, "till")

    @service.on(Noted)
    async def note(session: AsyncSession, event: Noted, context: Context) -> None:
        await session.execute(
            ledger.insert().values(entry=f"{event.account} {event.entry}", by=context.id)
        )

    service.follow(topic, map=map, **{"id": "order-id", **options})
    async with service.running():
        yield service


async def entries(engine: AsyncEngine) -> list[str]:
    """What took effect, in its order."""
    async with engine.connect() as connection:
        return list(await connection.scalars(select(ledger.c.entry).order_by(ledger.c.number)))


async def come(engine: AsyncEngine, *wanted: str) -> None:
    """Return once exactly these have taken effect, in this order."""

    async def are_there() -> bool:
        return len(await entries(engine)) >= len(wanted)

    await until(are_there, what=f"{len(wanted)} entries")
    assert await entries(engine) == list(wanted)


async def held(service: outbox.Service) -> list[operators.HeldMessage]:
    async with service.sessions() as session:
        return list((await operators.list_held(session)).items)


async def holds(service: outbox.Service, count: int) -> None:
    """Return once it holds so many messages."""

    async def are_held() -> bool:
        return len(await held(service)) == count

    await until(are_held, what=f"{count} messages are held")


def order(customer: str, number: int, **more: Any) -> bytes:
    """An order as the others write it."""
    return json.dumps({"customer": customer, "number": number, **more}).encode()


async def test_what_is_sent_twice_takes_effect_once(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    for number in (1, 1, 2, 1):
        await stranger.send(order("ann", number), {"order-id": f"o-{number}"})
    async with till(engine, stranger.followed):
        await stranger.send(order("ann", 3), {"order-id": "o-3"})
        await come(engine, "ann 1", "ann 2", "ann 3")


async def test_the_position_lasts_and_nothing_of_theirs_is_deleted(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    calls: list[bytes] = []

    def counted(message: outbox.ForeignMessage) -> Noted | None:
        calls.append(message.body)
        return noted(message)

    for number in range(3):
        await stranger.send(order("ann", number), {"order-id": f"o-{number}"})
    async with till(engine, stranger.followed, counted):
        await come(engine, "ann 0", "ann 1", "ann 2")
    await stranger.send(order("ann", 3), {"order-id": "o-3"})
    async with till(engine, stranger.followed, counted):
        await come(engine, "ann 0", "ann 1", "ann 2", "ann 3")
    assert calls == [order("ann", number) for number in range(4)]
    if not isinstance(stranger, AtRedis):
        return
    assert await stranger.left() == 4


async def test_what_cannot_be_mapped_is_held_and_delays_no_other_message(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    await stranger.send(order("ann", 1))
    await stranger.send(order("ann", 1), {"another": "header"})
    await stranger.send(b"no JSON at all \xff", {"order-id": "o-2"})
    await stranger.send(json.dumps({"name": "of another shape"}).encode(), {"order-id": "o-3"})
    await stranger.send(order("ann", 4, weather="fine"), {"order-id": "o-4"})
    await stranger.send(order("ann", 5), {"order-id": "o-5"})
    async with till(engine, stranger.followed) as service:
        await come(engine, "ann 5")
        await holds(service, 4)
        found = await held(service)
        assert [it.state for it in found] == [State.DEAD] * 4
        assert "the header order-id is None" in found[0].last_error
        assert "the header order-id is None" in found[1].last_error
        assert "JSONDecodeError" in found[2].last_error or "Unicode" in found[2].last_error
        assert "KeyError" in found[3].last_error
        assert found[2].body == b"no JSON at all \xff"


async def test_what_was_held_is_handled_once_the_map_is_corrected(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    await stranger.send(order("ann", 1), {"order-id": "o-1"})

    def wrong(message: outbox.ForeignMessage) -> Noted:
        raise RuntimeError("a mistake of ours")

    async with till(engine, stranger.followed, wrong) as service:
        await holds(service, 1)
    async with till(engine, stranger.followed) as service:
        async with service.sessions.begin() as session:
            assert await operators.redrive(session, Selection(), now=SystemClock().now()) == 1
        await come(engine, "ann 1")
        await holds(service, 0)


async def test_an_event_whose_handler_fails_is_held_as_what_it_became(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    service = make_service(engine, "till")
    is_broken = True

    @service.on(Noted)
    async def note(session: AsyncSession, event: Noted, context: Context) -> None:
        if is_broken and event.account == "ann":
            raise RuntimeError("not today")
        await session.execute(ledger.insert().values(entry=event.entry, by=context.id))

    service.follow(stranger.followed, map=noted, id="order-id")
    for customer, number in (("ann", 1), ("ann", 2), ("bob", 3)):
        await stranger.send(order(customer, number), {"order-id": f"o-{number}"})
    async with service.running():
        await come(engine, "3")
        await holds(service, 2)
        assert [it.key for it in await held(service)] == ["ann", "ann"]
        is_broken = False
        async with service.sessions.begin() as session:
            await operators.redrive(session, Selection(), now=SystemClock().now())
        await come(engine, "3", "1", "2")


async def test_a_reader_that_was_taken_over_gets_nothing_more_and_the_next_one_all(
    stranger: Stranger,
) -> None:
    topic = stranger.followed
    for number in range(4):
        await stranger.send(order("ann", number), {"order-id": f"o-{number}"})
    old, new = client_of(topic), client_of(topic)
    try:
        first = await old.follow(topic, "till", Start.FIRST)
        taken = await taken_of(first, 4)
        await first.done(1)
        if topic.address.kind == "rabbitmq":
            # Nobody is let in as long as it is there.
            with pytest.raises((BrokerAway, BrokerRefused)):
                await new.follow(topic, "till", Start.FIRST)
            await first.aclose()
        second = await followed_when_free(new, topic)
        with pytest.raises((ReadingLost, BrokerAway)):
            await first.done(3)
        assert [it.packet.body for it in await taken_of(second, 3)] == [
            it.packet.body for it in taken[1:]
        ]
        await second.done(3)
        assert await new.behind(topic, "till") == 0
        await first.aclose()
        await second.aclose()
    finally:
        await old.aclose()
        await new.aclose()


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-type": "quorum"},
        {"x-single-active-consumer": True},
        {"x-queue-type": "quorum", "x-single-active-consumer": True},
    ],
    ids=["quorum", "single", "quorum-single"],
)
async def test_a_queue_of_any_kind_has_one_reader(arguments: dict[str, Any]) -> None:
    async with at_rabbit() as rabbit:
        topic = await rabbit.declare("any-kind", arguments)
        old, new = client_of(topic), client_of(topic)
        try:
            first = await old.follow(topic, "till", Start.FIRST)
            with pytest.raises(BrokerAway, match="another client reads"):
                await new.follow(topic, "till", Start.FIRST)
            await first.aclose()
            second = await followed_when_free(new, topic)
            await second.aclose()
        finally:
            await old.aclose()
            await new.aclose()


async def test_a_stream_of_rabbitmq_is_not_read_as_if_it_were_a_queue() -> None:
    async with at_rabbit() as rabbit:
        topic = await rabbit.declare("stream", {"x-queue-type": "stream"})
        client = client_of(topic)
        try:
            reading = await client.follow(topic, "till", Start.FIRST)
            await rabbit.send_to(topic, b"{}")
            with pytest.raises(BrokerAway, match="keeps no position"):
                await taken_of(reading, 1)
        finally:
            await client.aclose()


async def followed_when_free(client: TopicClient, topic: outbox.Topic) -> Reading:
    """The reading of a queue whose last reader has just closed. RabbitMQ counts that one for a
    moment more where the queue is a quorum queue, and a consumer asks again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.follow(topic, "till", Start.FIRST)
            except BrokerAway:
                await asyncio.sleep(0.05)  # there is nothing to be told by


async def taken_of(reading: Reading, count: int) -> list[Taken]:
    """So many messages of the reading."""
    found: list[Taken] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await reading.next(100, 1.0)
    return found


async def test_a_group_that_begins_with_what_is_new_gets_nothing_older(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    if stranger.followed.address.kind == "rabbitmq":
        return  # a queue has one position
    await stranger.send(order("ann", 1), {"order-id": "o-1"})
    client = client_of(stranger.followed)
    try:
        reading = await client.follow(stranger.followed, "till", Start.NEW)
        await reading.aclose()
        await stranger.send(order("ann", 2), {"order-id": "o-2"})
        reading = await client.follow(stranger.followed, "till", Start.NEW)
        (taken,) = await taken_of(reading, 1)
        assert taken.packet.body == order("ann", 2)
        await reading.aclose()
    finally:
        await client.aclose()


async def test_cloudevents_of_both_modes_are_known_by_their_own_ids(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    data = {"customer": "ann", "number": 7}
    told = {"specversion": "1.0", "id": "o-7", "source": "/orders", "type": "com.example.order"}
    binary = {"content-type": "application/json"} | {f"ce-{name}": it for name, it in told.items()}
    whole = json.dumps({**told, "data": data}).encode()
    seen: list[outbox.ForeignMessage] = []

    def mapped(message: outbox.ForeignMessage) -> Noted:
        seen.append(message)
        return Noted(message.data["customer"], str(message.data["number"]))

    before = SystemClock().now() - timedelta(seconds=5)
    await stranger.send(json.dumps(data).encode(), binary)
    await stranger.send(whole, {"content-type": "application/cloudevents+json"})
    await stranger.send(whole)
    async with till(engine, stranger.followed, mapped, id=None):
        await until(lambda: len(seen) >= 3, what="all have come")
        await come(engine, "ann 7")
    assert all(before <= it.at <= SystemClock().now() for it in seen)
    keys = {"nats": "shop.parcels", "redis": "", "kafka": "ann"}
    key = keys.get(stranger.followed.address.kind, stranger.followed.name)
    assert {it.key for it in seen} == {key}


async def test_a_broker_that_is_away_keeps_no_service_from_being_ready(
    engine: AsyncEngine,
) -> None:
    topic = outbox.Topic("nats://127.0.0.1:1", "parcels")
    async with till(engine, topic) as service:
        assert await service.entrance.queues.trouble() is None
        (figures,) = await service.entrance.queues.figures()
        assert figures.waiting is None


async def that_waits(_: outbox.ForeignMessage) -> None:
    """A function that may not map."""


@pytest.mark.databases("sqlite")
async def test_what_cannot_be_followed_is_refused_at_once(engine: AsyncEngine) -> None:
    service = make_service(engine, "till")
    for wrong, why in (
        ({"start": "last"}, "neither first nor new"),
        ({"group": "a.b"}, "no name of a group"),
    ):
        with pytest.raises(InvalidService, match=why):
            service.follow("topic+nats://h/a", map=noted, **wrong)
    with pytest.raises(InvalidService, match="names no topic"):
        service.follow("nats://h", map=noted)
    with pytest.raises(InvalidService, match="no plain function"):
        service.follow("topic+nats://h/a", map=that_waits)  # type: ignore[arg-type]  # it is refused
    for none in (None, "shop.parcels"):
        with pytest.raises(InvalidService, match=r"map=.* is no function") as refused:
            service.follow("topic+nats://h/a", map=none)  # type: ignore[arg-type]  # it is refused
        assert "outbox.ForeignMessage" in refused.value.next_step
    with pytest.raises(InvalidService, match=r"id=5 .*neither the name of a header nor a function"):
        service.follow("topic+nats://h/a", map=noted, id=5)  # type: ignore[arg-type]  # it is refused
    with pytest.raises(InvalidService, match="is a NoneType, and no topic"):
        service.follow(None, map=noted)  # type: ignore[arg-type]  # it is refused
    with pytest.raises(InvalidService, match="names no queue"):
        service.follow("topic+amqp://h/v/?routing-key=a", map=noted)
    for wrong in ({"start": "new"}, {"group": "tills"}):
        with pytest.raises(InvalidService, match="has no effect on a queue of RabbitMQ"):
            service.follow("topic+amqp://h/v/a", map=noted, **wrong)
    with pytest.raises(InvalidService, match="no effect on what is followed"):
        service.follow("topic+nats://h/a?mode=binary", map=noted)
    service.follow("topic+nats://h/a", map=noted)
    with pytest.raises(InvalidService, match="twice"):
        service.follow("topic+nats://another/a", map=noted)
