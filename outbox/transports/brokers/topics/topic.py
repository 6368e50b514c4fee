"""`outbox.Topic`: a topic of others at a broker, which they have made and read.

orders = outbox.Topic("nats://host:4222", "shop.orders")
service = outbox.Service("shop", engine, peers={"partner": orders}, routes={Ordered: ["partner"]})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote, urlencode

from outbox.adding.installation import destination
from outbox.errors import InvalidService, OutboxError
from outbox.transports.brokers.address import BrokerAddress, options_in

SCHEME = "topic+"
"""What the text of a topic begins with, before the address of its broker."""

STRUCTURED = "structured"
BINARY = "binary"
_MODES = (STRUCTURED, BINARY)
_OWN_OPTIONS = ("mode", "routing-key")
_TLS = frozenset({"ca", "cert", "key"})
_BROKER_OPTIONS: Mapping[str, frozenset[str]] = {
    "kafka": _TLS | {"sasl"},
    "nats": _TLS,
    "rabbitmq": _TLS,
    "redis": _TLS | {"durable", "prefix"},
}
"""The options of a broker's address that count for a topic of others there."""
_OF_QUEUES: Mapping[str, str] = {
    "delivery-limit": "none of its queues is declared here",
    "partitions": "its owner has divided it",
    "prefix": "its name is whole as it stands",
    "replicas": "it is not made here",
}
"""Why the options of a queue's address do not."""
_LONGEST = 249
_WITHOUT_PATH = frozenset({"nats", "kafka"})
_SUBJECT = re.compile(r"[\x21-\x7e]+")
_WILDCARDS = frozenset({"*", ">"})
_WRITE = (
    "write it as topic+nats://host:4222/SUBJECT, topic+amqp://user:secret@host/VHOST/EXCHANGE, "
    "topic+redis://host:6379/0/STREAM or topic+kafka://host:9092/TOPIC; docs/guide/brokers.md has "
    "the options"
)


@dataclass(frozen=True)
class Topic:
    """A topic of others: a subject of NATS, an exchange of RabbitMQ or, where it is followed, a
    queue, a stream of Redis, a topic of Kafka. It is never made here.

    `broker` is the broker's address, with its secret. `name` is the topic's. `mode` is structured
    (an event is one JSON object) or binary (its data is the body, its attributes are headers).
    `routing_key` is RabbitMQ's alone; without it an event has its type as its routing key.

    Raises InvalidService where one of them cannot be.
    """

    broker: str = field(repr=False)
    name: str
    mode: str = STRUCTURED
    routing_key: str | None = None

    def __post_init__(self) -> None:
        address = self.address
        if len(self.name) > _LONGEST or not self.name.isprintable():
            _refuse(f"{self.name[:50]!r} is no name of a topic", _WRITE)
        if address.kind == "rabbitmq":
            if not self.name and not self.routing_key:
                _refuse(
                    f"the default exchange of {address} needs a routing key",
                    "add routing-key=QUEUE, the name of the queue",
                )
        elif self.routing_key is not None:
            _refuse(
                f"{address} knows no routing key", "leave it out: it is an option of RabbitMQ alone"
            )
        elif not self.name:
            _refuse(f"the topic of {address} has no name", _WRITE)
        self._require_options(address)
        if address.kind in _WITHOUT_PATH and address.path:
            _refuse(f"{address} has a path before the name of the topic", _WRITE)
        if address.kind == "nats" and not _SUBJECT.fullmatch(self.name):
            _refuse(f"{self.name!r} is no subject of NATS", "write words with dots between them")
        if self.mode not in _MODES:
            _refuse(
                f"mode={self.mode[:20]!r} of {self} is neither structured nor binary",
                "choose one of the two",
            )

    @property
    def address(self) -> BrokerAddress:
        """Where its broker is."""
        return BrokerAddress.parse(self.broker)

    def to_send_to(self) -> Topic:
        """The topic itself, where events can be sent to it. Raises InvalidService where it has an
        option for those who follow, and where its name stands for many subjects: NATS would keep an
        event under that very name, unseen by readers of any subject of them."""
        if "prefix" in self.address.given:
            _refuse(
                f"{self} has the option 'prefix', which has no effect on what is sent",
                "leave it out: it is for a topic that is followed, and for queues",
            )
        if self.address.kind == "nats" and not _WILDCARDS.isdisjoint(self.name.split(".")):
            _refuse(
                f"{self.name!r} stands for many subjects of NATS, and an event is sent to one",
                "write the whole subject, without * and >",
            )
        return self

    def to_follow(self) -> Topic:
        """The topic itself, where it can be followed. Raises InvalidService where it names none, or
        has an option for those who send."""
        if not self.name:
            _refuse(
                f"{self} is an exchange, and names no queue that could be followed",
                "write the name of a queue as the name of the topic, without routing-key",
            )
        if self.routing_key is not None or self.mode != STRUCTURED:
            option = "routing-key" if self.routing_key is not None else "mode"
            _refuse(
                f"{self} has the option {option!r}, which has no effect on what is followed",
                "leave it out: it is for events that are sent, and both modes are read",
            )
        return self

    def _require_options(self, address: BrokerAddress) -> None:
        known = _BROKER_OPTIONS[address.kind]
        for option in sorted(address.given - known):
            if option in _OF_QUEUES:
                _refuse(
                    f"{self} has the option {option!r}, which has no effect on it: "
                    f"{_OF_QUEUES[option]}",
                    "leave it out: it is for the address of a queue",
                )
            names = ", ".join(sorted({*known, *_OWN_OPTIONS}))
            _refuse(
                f"{self} has the option {option!r}, which is not known; a topic there has {names}",
                "correct its name, or leave it out; docs/guide/brokers.md has the options",
            )

    def __str__(self) -> str:
        """For logs and for errors, without the secret."""
        return f"the topic {self.name or self.routing_key} of {self.address}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """The topic in a text such as `topic+nats://host:4222/shop.orders?mode=binary`. Its name is
        the last part of the path; options that are not its own are the broker's. Raises
        InvalidService."""
        place, _, query = text.strip().removeprefix(SCHEME).partition("?")
        scheme, _, rest = place.partition("://")
        access, has_access, where = rest.rpartition("@")
        hosts, has_name, name = where.rpartition("/")
        if not text.strip().startswith(SCHEME) or not has_name:
            shown = text.strip().partition("?")[0].rpartition("@")[2][:100]
            _refuse(f"{shown!r} names no topic", _WRITE)
        options = options_in(query)
        others = {key: it for key, it in options.items() if key not in _OWN_OPTIONS}
        broker = f"{scheme}://{access}{has_access}{hosts}{'?' if others else ''}{urlencode(others)}"
        return cls(
            broker, unquote(name), options.get("mode", STRUCTURED), options.get("routing-key")
        )


def topics_in(text: str) -> tuple[str, Mapping[str, Topic]]:
    """The peers in "name=address,..." without the topics, and these by name. Raises ValueError that
    names the part which is wrong."""
    others: list[str] = []
    found: dict[str, Topic] = {}
    for part in _parts_of(text):
        name, _, address = (it.strip() for it in part.partition("="))
        if not address.startswith(SCHEME):
            others.append(part)
            continue
        if name in found:
            raise ValueError(f"{name} has two addresses")
        try:
            found[destination(name)] = Topic.parse(address).to_send_to()
        except OutboxError as error:
            raise ValueError(f"{name}: {error}") from None
    return ",".join(others), found


def _parts_of(text: str) -> list[str]:
    """The parts of the list; what follows a topic without being a name belongs to it, as a further
    server of its broker."""
    parts: list[str] = []
    for piece in text.split(","):
        name, is_given, _ = piece.partition("=")
        is_server = not is_given or any(it in name for it in ":/?@")
        if is_server and parts and parts[-1].partition("=")[2].strip().startswith(SCHEME):
            parts[-1] += f",{piece.strip()}"
        else:
            parts.append(piece)
    return parts


def _refuse(problem: str, next_step: str) -> NoReturn:
    raise InvalidService(problem, next_step=next_step)
