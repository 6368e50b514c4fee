"""Events that go to topics of others, who read them with a client of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cloudevents.core.bindings import http, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.errors import InvalidService, Unrouted
from outbox.messages import SagaRef
from outbox.relay.settings import RelaySettings
from outbox.replies import Outcome
from outbox.tables import outbox as outbox_table
from outbox.transports.base import Accepted, Answered, Unreachable
from outbox.transports.brokers.broker import BrokerRefused
from outbox.transports.brokers.topics.clients import client_of
from outbox.transports.brokers.topics.transport import TopicTransport
from tests.support.brokers.strangers import STRANGERS, AtRabbit, Seen, Stranger
from tests.support.brokers.traffic import PATIENT
from tests.support.databases.databases import Schema
from tests.support.outbox.couriers import ENDURING
from tests.support.outbox.inboxes import Book, Listed, Names, Noted, envelope, ledger_schema
from tests.support.outbox.services import make_service

QUICKLY = RelaySettings(poll=0.05, **ENDURING)
"""A delivery that is waited for is not sent again meanwhile."""
names = Names()


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture(params=STRANGERS)
async def stranger(request: pytest.FixtureRequest) -> AsyncIterator[Stranger]:
    async with STRANGERS[request.param]() as it:
        yield it


def event_in(seen: Seen, stranger: Stranger) -> CloudEvent:
    """The event, as the CloudEvents library reads it."""
    if seen.content_type == "application/cloudevents+json":
        event = JSONFormat().read(None, seen.body)
    elif stranger.topic.address.kind == "nats":
        event = http.from_http_event(http.HTTPMessage(dict(seen.headers), seen.body))
    elif stranger.topic.address.kind == "kafka":
        headers = {name: it.encode() for name, it in seen.headers.items()}
        event = kafka.from_kafka_event(kafka.KafkaMessage(headers, seen.key, seen.body))
    else:
        told = rabbitmq.RabbitMQMessage(dict(seen.headers), seen.content_type, seen.body)
        event = rabbitmq.from_rabbitmq_event(told)
    assert isinstance(event, CloudEvent)
    return event


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_others_read_events_as_plain_cloudevents_in_the_order_of_their_keys(
    stranger: Stranger, mode: str, engine: AsyncEngine
) -> None:
    await stranger.make()
    topic = replace(stranger.topic, mode=mode)
    service = make_service(
        engine, "press", peers={"others": topic}, routes={"press.*": ["others"]}, relay=QUICKLY
    )
    async with service.running():
        async with service.sessions.begin() as session:
            ids = [outbox.add(session, Noted("ä%41 b", str(it))) for it in range(5)]
        events = [event_in(it, stranger) for it in await stranger.read(5)]
    assert [it.get_id() for it in events] == ids
    for number, event in enumerate(events):
        data = event.get_data()
        read = json.loads(data) if isinstance(data, bytes | str) else data
        assert read == {"account": "ä%41 b", "entry": str(number)}
        assert (event.get_source(), event.get_type()) == ("press", "press.noted.v1")
        told = set(event.get_attributes())
        assert event.get_extension("partitionkey") == "ä%41 b"
        assert told <= {
            *("specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey"),
            "traceparent",
        }


async def test_an_event_stays_as_long_as_there_is_no_such_topic(
    stranger: Stranger, engine: AsyncEngine
) -> None:
    transport = TopicTransport(client_of(stranger.topic), stranger.topic, timeout=PATIENT)
    try:
        trouble = await transport.deliver([envelope(names(), Noted("a"))])
        assert isinstance(trouble, Unreachable)
        assert not trouble.sent
        assert "-> " in trouble.reason or "ask" in trouble.reason or "let those" in trouble.reason
        await stranger.make()
        id = names()
        assert await transport.deliver([envelope(id, Noted("a"))]) == Accepted()
        (seen,) = await stranger.read(1)
        assert event_in(seen, stranger).get_id() == id
    finally:
        await transport.aclose()


async def test_one_can_ask_whether_there_is_such_a_topic(stranger: Stranger) -> None:
    client = client_of(stranger.topic)
    try:
        with pytest.raises(BrokerRefused) as refused:
            await client.require(stranger.topic)
        assert stranger.topic.name in refused.value.problem
        assert refused.value.next_step
        await stranger.make()
        for _ in range(2):
            await client.require(stranger.topic)
    finally:
        await client.aclose()


async def test_with_the_default_exchange_of_rabbitmq_the_queue_is_asked_for() -> None:
    async with STRANGERS["rabbitmq"]() as stranger:
        topic = outbox.Topic(stranger.topic.broker, "", routing_key=stranger.followed.name)
        client = client_of(topic)
        try:
            with pytest.raises(BrokerRefused, match="no queue"):
                await client.require(topic)
            await stranger.make()
            await client.require(topic)
        finally:
            await client.aclose()


async def test_events_that_have_a_queue_leave_while_others_wait_for_one(
    engine: AsyncEngine,
) -> None:
    async with STRANGERS["rabbitmq"]() as rabbit:
        assert isinstance(rabbit, AtRabbit)
        await rabbit.make(bound_to="press.noted.*")
        transport = TopicTransport(client_of(rabbit.topic), rabbit.topic, timeout=PATIENT)
        batch = [
            envelope(names(), it)
            for it in (Noted("a", "1"), Listed("a"), Noted("a", "2"), Noted("b", "3"))
        ]
        try:
            answer = await transport.deliver(batch)
            assert isinstance(answer, Answered)
            assert [it.outcome for it in answer.replies] == [
                *(Outcome.DONE, Outcome.ONGOING, Outcome.NOT_ATTEMPTED, Outcome.DONE)
            ]
            assert "bind a queue" in (answer.replies[1].reason or "")
            seen = [event_in(it, rabbit).get_id() for it in await rabbit.read(2)]
            assert sorted(seen) == sorted([batch[0].id, batch[3].id])
        finally:
            await transport.aclose()


@pytest.mark.databases("sqlite")
async def test_a_topic_takes_events_alone_and_a_name_without_a_way_is_refused(
    engine: AsyncEngine,
) -> None:
    topic = "topic+nats://127.0.0.1:1/shop.orders"
    service = make_service(engine, "press", peers={"others": topic}, routes={Noted: ["others"]})
    async with service.sessions() as session, session.begin():
        with pytest.raises(Unrouted, match="takes events alone"):
            outbox.add(session, Book("a"), to="others")
        with pytest.raises(Unrouted, match="takes events alone"):
            service.start(session, SagaRef[Book]("sell"), Book("a"), orchestrator="others")
        with pytest.raises(Unrouted, match="no peer"):
            outbox.add(session, Noted("a"), to="another")
        with pytest.raises(Unrouted, match="no route"):
            outbox.add(session, Listed("a"))
        outbox.add(session, Noted("a"))


@pytest.mark.databases("sqlite")
async def test_one_event_has_one_row_for_a_topic(engine: AsyncEngine) -> None:
    topics = {it: f"topic+nats://127.0.0.1:1/{it}" for it in ("one", "two")}
    service = make_service(engine, "press", peers=topics, routes={"*": ["one", "two"]})
    async with service.sessions.begin() as session:
        outbox.add(session, Noted("a"))
    async with engine.connect() as connection:
        rows = await connection.scalars(select(outbox_table.c.destination))
        assert sorted(rows) == ["one", "two"]


@pytest.mark.databases("sqlite")
async def test_topics_are_named_in_the_environment(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "SAGABOX_PEERS", "mail=http://127.0.0.1:1,others=topic+redis://h/0/orders?mode=binary"
    )
    service = make_service(engine, "press", peers=None, routes={"*": ["others", "mail"]})
    assert service.topics == {"others": outbox.Topic("redis://h/0", "orders", "binary")}
    assert service.peers == {"mail": "http://127.0.0.1:1"}
    monkeypatch.setenv("SAGABOX_PEERS", "others=topic+redis://h")
    with pytest.raises(InvalidService, match="SAGABOX_PEERS cannot be read: others"):
        make_service(engine, "press", peers=None)
    for many in (outbox.Topic("nats://h", "shop.>"), "topic+nats://h/shop.>"):
        with pytest.raises(InvalidService, match="many subjects of NATS"):
            make_service(engine, "press", peers={"others": many})
