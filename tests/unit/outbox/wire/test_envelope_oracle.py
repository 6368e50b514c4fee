"""Our events, read by the `cloudevents` package, and its events, read by us."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import orjson
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.wire import attributes
from outbox.wire.envelope import (
    STRUCTURED,
    Envelope,
    from_batch,
    from_binary,
    from_structured,
    to_batch,
    to_binary,
    to_structured,
)
from tests.support.outbox.envelopes import envelopes, json_values

unhurried = settings(deadline=None)
# The package hands on text and objects only, and our messages are objects.
_OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "ü"]), json_values(), max_size=3)
_ENVELOPES = envelopes(data=_OBJECTS.map(orjson.dumps))


@unhurried
@given(_ENVELOPES)
def test_the_oracle_reads_our_structured_events(envelope: Envelope) -> None:
    message = HTTPMessage({"content-type": STRUCTURED}, to_structured(envelope))
    _same(from_structured_event(message), envelope)


@unhurried
@given(_ENVELOPES)
def test_the_oracle_reads_our_binary_events(envelope: Envelope) -> None:
    headers, body = to_binary(envelope)
    _same(from_binary_event(HTTPMessage(headers, body)), envelope)


@unhurried
@given(st.lists(_ENVELOPES, max_size=3))
def test_the_oracle_reads_each_event_of_our_batches(batch: list[Envelope]) -> None:
    # The package knows no batches; a batch is defined as the list of structured events.
    events = json.loads(to_batch(batch))
    assert len(events) == len(batch)
    for event, envelope in zip(events, batch, strict=True):
        message = HTTPMessage({"content-type": STRUCTURED}, json.dumps(event).encode())
        _same(from_structured_event(message), envelope)


@unhurried
@given(_ENVELOPES)
def test_we_read_the_oracles_structured_events(envelope: Envelope) -> None:
    assert from_structured(to_structured_event(_oracles(envelope)).body) == envelope


@unhurried
@given(st.lists(_ENVELOPES, max_size=3))
def test_we_read_a_batch_of_the_oracles_events(batch: list[Envelope]) -> None:
    bodies = [to_structured_event(_oracles(envelope)).body for envelope in batch]
    assert from_batch(b"[" + b",".join(bodies) + b"]") == batch


@unhurried
@given(_ENVELOPES)
def test_we_read_the_oracles_binary_events(envelope: Envelope) -> None:
    message = to_binary_event(_oracles(envelope))
    read = from_binary(message.headers, message.body)
    assert json.loads(read.data) == json.loads(envelope.data)
    assert _attributes(read) == _attributes(envelope)


def _same(event: BaseCloudEvent, envelope: Envelope) -> None:
    assert event.get_specversion() == "1.0"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_id() == envelope.id
    assert event.get_source() == envelope.source
    assert event.get_type() == envelope.type
    assert event.get_time() == envelope.time
    assert event.get_data() == json.loads(envelope.data)
    read = {name: event.get_extension(name) for name in _extensions(envelope)}
    assert read == _extensions(envelope)
    known = {"specversion", "id", "source", "type", "time", "datacontenttype"}
    assert set(event.get_attributes()) == known | {
        name for name, value in read.items() if value is not None
    }


def _oracles(envelope: Envelope) -> CloudEvent:
    named: dict[str, Any] = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": envelope.time,
        "datacontenttype": "application/json",
    } | {name: value for name, value in _extensions(envelope).items() if value is not None}
    return CloudEvent(named, json.loads(envelope.data))


def _extensions(envelope: Envelope) -> dict[str, str | None]:
    return {
        "partitionkey": envelope.key,
        "correlationid": envelope.correlation,
        "causationid": envelope.causation,
        "traceparent": envelope.trace,
        "replyto": envelope.reply_to,
        "undoes": " ".join(envelope.undoes) or None,
        "expirytime": _written(envelope.expires),
        "expiresin": None if envelope.expires_in is None else str(envelope.expires_in),
    }


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else attributes.written(moment)


def _attributes(envelope: Envelope) -> tuple[object, ...]:
    return (
        *(envelope.id, envelope.source, envelope.type, envelope.time),
        *_extensions(envelope).items(),
    )
