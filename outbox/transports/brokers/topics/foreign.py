"""`outbox.ForeignMessage`: a message of others, as it came from a topic of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from outbox.errors import MalformedEnvelope
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.topics.port import CE
from outbox.wire import attributes
from outbox.wire.envelope import STRUCTURED

AT = "sagabox-at"
"""The header in which a packet of a topic keeps when the broker took it."""
_PREFIXES = (CE, "ce_", "cloudevents:", "cloudevents_")


@dataclass(frozen=True)
class ForeignMessage:
    """A message of others. `topic` is the name of the topic, and `key` what the broker orders by:
    the subject, the routing key or the key of the record, and "" at Redis. The names of `headers`
    are in lower case. `at` is when the broker took it (aware); where it does not tell, when it
    came here."""

    topic: str
    body: bytes
    headers: Mapping[str, str]
    key: str
    at: datetime

    def json(self) -> Any:
        """The body read as JSON. Raises ValueError where it is none."""
        return json.loads(self.body)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of the CloudEvent that it is, in structured or binary mode; empty where it
        is none."""
        if self._is_structured:
            event = self._event
            return {name: it for name, it in event.items() if not name.startswith("data")}
        found = {
            name.removeprefix(prefix): it
            for name, it in self.headers.items()
            for prefix in _PREFIXES
            if name.startswith(prefix)
        }
        return found if "specversion" in found else {}

    @property
    def data(self) -> Any:
        """The data of the CloudEvent that it is, read as JSON; else the body, read as JSON. Raises
        ValueError where it is none."""
        return self._event.get("data") if self._is_structured else self.json()

    @property
    def _is_structured(self) -> bool:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind == STRUCTURED or "specversion" in self._event

    @cached_property
    def _event(self) -> Mapping[str, Any]:
        try:
            read = self.json()
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}


def unquoted(text: str) -> str:
    """The value of an attribute in a header, as it was before it was percent-encoded; as it came,
    where that cannot be undone."""
    try:
        return attributes.unquoted("", text)
    except MalformedEnvelope:
        return text


def stamped(packet: Packet, at: datetime | None) -> Packet:
    """The packet with the time when the broker took it, if it tells that."""
    if at is None:
        return packet
    headers = {**packet.headers, AT: attributes.written(at)}
    return Packet(packet.partition, headers, packet.body, packet.key)


def foreign_of(packet: Packet, topic: str, now: datetime) -> ForeignMessage:
    """The message in a packet of that topic."""
    headers = dict(packet.headers)
    at = headers.pop(AT, None)
    moment = now if at is None else attributes.moment(at)
    return ForeignMessage(topic, packet.body, headers, packet.key, moment)
