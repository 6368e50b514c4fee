"""The broker at an address. Its adapter is imported only then: each needs libraries of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from outbox.errors import ExtraMissing
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import Broker


@dataclass(frozen=True)
class _Adapter:
    """A class in the module of that kind, and the library that it imports."""

    name: str
    client: str


class _Made(Protocol):
    """What an adapter is made by. It knows no options but those of its own."""

    OPTIONS: frozenset[str]

    def __call__(self, address: BrokerAddress) -> Broker: ...


_ADAPTERS: Mapping[str, _Adapter] = {
    "kafka": _Adapter("KafkaBroker", "aiokafka"),
    "nats": _Adapter("NatsBroker", "nats"),
    "rabbitmq": _Adapter("RabbitBroker", "aio_pika"),
    "redis": _Adapter("RedisBroker", "redis"),
}


def require(address: BrokerAddress) -> None:
    """Raises ExtraMissing where the libraries of that broker are not installed."""
    require_library(address.kind, f"the address of {address}")


def require_library(kind: str, needed_for: str) -> None:
    """Raises ExtraMissing where the libraries of brokers of that kind are not installed;
    `needed_for` says what asks for them."""
    if find_spec(_ADAPTERS[kind].client) is None:
        raise ExtraMissing(kind, needed_for)


def broker_at(text: str) -> Broker:
    """The broker at that address. Nothing is connected yet, and no event loop is needed.

    Raises InvalidService where it is no address of a broker or has an option that its adapter does
    not know, and ExtraMissing where the libraries of that broker are not installed.
    """
    address = BrokerAddress.parse(text)
    require(address)
    module = import_module(f"outbox.transports.brokers.{address.kind}")
    made = cast("_Made", getattr(module, _ADAPTERS[address.kind].name))
    address.require_options(made.OPTIONS)
    return made(address)
