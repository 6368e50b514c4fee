"""The transport to a topic of others: what it answers, by what the broker says."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

import outbox
from outbox.errors import OutboxError
from outbox.replies import Outcome
from outbox.transports.base import Accepted, Answered, Unacceptable, Unreachable
from outbox.transports.brokers.broker import BrokerAway, BrokerRefused, PacketRefused, Reading
from outbox.transports.brokers.topics.port import EventPacket, Start, TakenInPart
from outbox.transports.brokers.topics.topic import Topic
from outbox.transports.brokers.topics.transport import TopicTransport
from outbox.wire.envelope import Envelope
from tests.support.outbox.inboxes import START, Book, Names, Noted, envelope

TOPIC = Topic("nats://host", "orders")
names = Names()


class Broker:
    """A client that keeps what it takes, or raises."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.packets: list[EventPacket] = []

    async def require(self, topic: Topic) -> None:
        raise NotImplementedError

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.packets += packets

    async def follow(self, topic: Topic, group: str, start: Start) -> Reading:
        raise NotImplementedError

    async def behind(self, topic: Topic, group: str) -> int:
        return 0

    async def aclose(self) -> None:
        """Nothing is open."""


def noted(account: str) -> Envelope:
    return envelope(names(), Noted(account))


async def test_others_get_no_extension_that_only_this_library_knows() -> None:
    broker = Broker()
    told = {"due": START, "run_number": names(), "correlation": names(), "causation": names()}
    event = envelope(names(), Noted("a"), **told)
    assert await TopicTransport(broker, TOPIC).deliver([event]) == Accepted()
    (packet,) = broker.packets
    assert (packet.key, packet.type) == ("a", "press.noted.v1")
    assert set(json.loads(packet.body)) == {
        *("specversion", "id", "source", "type", "time", "datacontenttype", "data"),
        *("partitionkey", "correlationid", "causationid"),
    }


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        (BrokerAway("gone", sent=True), Unreachable(f"{TOPIC}: gone", sent=True)),
        (BrokerAway("gone", sent=False), Unreachable(f"{TOPIC}: gone", sent=False)),
        (PacketRefused("too large"), Unacceptable(f"{TOPIC}: too large")),
        (
            BrokerRefused("no topic", next_step="make it"),
            Unreachable(str(OutboxError("no topic", next_step="make it")), sent=False),
        ),
    ],
)
async def test_the_broker_s_trouble_is_the_answer(trouble: Exception, answer: object) -> None:
    assert await TopicTransport(Broker(trouble), TOPIC).deliver([noted("a")]) == answer


async def test_what_could_go_nowhere_waits_and_holds_its_key_alone() -> None:
    transport = TopicTransport(Broker(TakenInPart("no queue", {0, 3})), TOPIC)
    answer = await transport.deliver([noted("a"), noted("b"), noted("b"), noted("a")])
    assert isinstance(answer, Answered)
    assert [it.outcome for it in answer.replies] == [
        *(Outcome.DONE, Outcome.ONGOING, Outcome.NOT_ATTEMPTED, Outcome.DONE)
    ]


async def test_a_command_is_rejected_and_the_events_beside_it_go() -> None:
    broker = Broker()
    command = envelope(names(), Book("a"), reply_to="sender")
    answer = await TopicTransport(broker, TOPIC).deliver([command, noted("a")])
    assert isinstance(answer, Answered)
    assert [it.outcome for it in answer.replies] == [Outcome.REJECTED, Outcome.DONE]
    assert [it.type for it in broker.packets] == ["press.noted.v1"]


async def test_a_transport_that_is_closed_sends_nothing() -> None:
    broker = Broker()
    transport = TopicTransport(broker, TOPIC)
    await transport.aclose()
    await transport.aclose()
    answer = await transport.deliver([noted("a")])
    assert answer == Unreachable("the transport is closed", sent=False)
    assert broker.packets == []
    assert outbox.Topic is Topic
