"""Messages of others as events: their ids, their times, and what cannot be mapped."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import outbox
from outbox.errors import MalformedEnvelope
from outbox.ids import is_id
from outbox.safe_text import fit
from outbox.transports.brokers.broker import Packet
from outbox.transports.brokers.topics.foreign import ForeignMessage, foreign_of, stamped
from outbox.transports.brokers.topics.mapping import Mapping, TheirId, inbox_id, source_of
from tests.support.outbox.inboxes import Book, Noted

NOW = datetime(2030, 1, 1, tzinfo=UTC)
EVENT = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "com.example.a", "data": {}}


def foreign(body: bytes = b"{}", headers: dict[str, str] | None = None) -> ForeignMessage:
    """A message of the topic `orders`."""
    return ForeignMessage("orders", body, headers or {}, "", NOW)


def structured(**more: Any) -> ForeignMessage:
    """A CloudEvent in structured mode."""
    return foreign(
        json.dumps(EVENT | more).encode(), {"content-type": "application/cloudevents+json"}
    )


def mapping(made: Any, id: TheirId = "order-id") -> Mapping:
    """A mapping to that."""

    def map(message: ForeignMessage) -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    return Mapping("orders", map, id, lambda: NOW)


@pytest.mark.parametrize("prefix", ["ce-", "ce_", "cloudevents:", "cloudevents_"])
def test_one_cloudevent_has_one_id_in_every_mode_and_at_every_broker(prefix: str) -> None:
    told = {name: it for name, it in EVENT.items() if isinstance(it, str)}
    binary = foreign(b"[1]", {f"{prefix}{name}": it for name, it in told.items()})
    assert inbox_id(binary, None) == inbox_id(structured(), None)
    assert (binary.attributes["type"], binary.data) == ("com.example.a", [1])
    assert structured(data=[2]).data == [2]
    assert is_id(inbox_id(binary, None))


def test_ids_differ_by_source_and_topic() -> None:
    ids = {
        inbox_id(structured(), None),
        inbox_id(structured(id="2"), None),
        inbox_id(structured(source="/other"), None),
        inbox_id(foreign(headers={"order-id": "1"}), "Order-Id"),
        inbox_id(ForeignMessage("others", b"", {"order-id": "1"}, "", NOW), "order-id"),
        inbox_id(foreign(), lambda message: message.topic),
    }
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("message", "id"),
    [
        (foreign(), None),
        (structured(id=""), None),
        (structured(id=5), None),
        (structured(source=None), None),
        (foreign(b"\xff"), None),
        (foreign(), "order-id"),
        (foreign(headers={"order-id": ""}), "order-id"),
        (foreign(headers={"order-id": "x" * 1001}), "order-id"),
        (foreign(), lambda _: None),
    ],
)
def test_what_has_no_id_is_no_event(message: ForeignMessage, id: TheirId) -> None:
    packet = Packet(0, message.headers, message.body)
    with pytest.raises(MalformedEnvelope, match=r"became no event: .* id=\.\.\."):
        mapping(Noted("a"), id).read(packet)


@pytest.mark.parametrize(
    "made", [KeyError("customer"), RuntimeError("no"), Book("a"), "text", Noted(""), Noted("\x00")]
)
def test_what_the_function_makes_must_be_a_declared_event(made: Any) -> None:
    with pytest.raises(MalformedEnvelope, match="became no event"):
        mapping(made).read(Packet(0, {"order-id": "1"}, b"{}"))


@pytest.mark.parametrize("made", [RuntimeError("x" * 5000), Noted("x" * 5000)])
def test_a_long_reason_leaves_room_for_the_next_step(made: Any) -> None:
    with pytest.raises(MalformedEnvelope) as raised:
        mapping(made).read(Packet(0, {"order-id": "1"}, b"{}"))
    assert fit(str(raised.value)).endswith("or drop it")


def test_an_event_is_as_old_as_the_broker_says() -> None:
    taken = NOW - timedelta(days=40)
    read = mapping(Noted("a")).read(stamped(Packet(0, {"order-id": "1"}, b""), taken))
    assert read is not None
    assert (read.due, read.time, read.key, read.source) == (taken, taken, "a", "topic:orders")
    again = mapping(Noted("a")).read(Packet(0, {"order-id": "1"}, b"another"))
    assert again is not None
    assert (again.due, again.id) == (NOW, read.id)


def test_a_message_that_is_not_for_the_service_becomes_no_event() -> None:
    assert mapping(None).read(Packet(0, {}, b"")) is None


def test_the_stamp_is_no_header_of_theirs() -> None:
    message = foreign_of(stamped(Packet(0, {"a": "b"}, b"", "key"), NOW), "orders", NOW)
    assert message == ForeignMessage("orders", b"", {"a": "b"}, "key", NOW)


def test_a_topic_has_a_name_that_no_service_can_have() -> None:
    assert source_of("orders") == "topic:orders"
    long = {source_of("a" * 200 + it) for it in "bc"}
    assert {len(it) for it in long} == {100}
    assert len(long) == 2
    assert outbox.ForeignMessage is ForeignMessage
