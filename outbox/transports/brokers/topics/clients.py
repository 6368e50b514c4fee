"""The client of the broker of a topic. Its module is imported only then: each needs libraries of
its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.opening import require
from outbox.transports.brokers.topics.port import TopicClient
from outbox.transports.brokers.topics.topic import Topic

_CLIENTS: Mapping[str, str] = {
    "kafka": "KafkaTopics",
    "nats": "NatsTopics",
    "rabbitmq": "RabbitTopics",
    "redis": "RedisTopics",
}


def client_of(topic: Topic) -> TopicClient:
    """A client of the topic's broker, for this topic and others at the same address. Nothing is
    connected yet. Raises InvalidService, and ExtraMissing."""
    address = topic.address
    require(address)
    module = import_module(f"outbox.transports.brokers.topics.{address.kind}")
    made = cast("Callable[[BrokerAddress], TopicClient]", getattr(module, _CLIENTS[address.kind]))
    return made(address)
