"""A packet is only made of what its receiver can read."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox.errors import MalformedEnvelope
from outbox.transports.brokers.packets import packed, unpacked
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope, from_structured, to_structured

QUEUE = "comments"
KEYS = Keyring.from_text(f"k1:{base64.b64encode(bytes(32)).decode()}")
NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
AN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
NOTED = Envelope(
    id=AN_ID,
    source="articles",
    type="articles.noted.v1",
    key="a key with umläute",
    time=NOW,
    data=b'{"text": "a \\"name\\": in a text", "large": 18446744073709551615}',
    correlation=AN_ID,
    undoes=(AN_ID, AN_ID),
    expires=NOW + timedelta(microseconds=1),
    expires_in=7,
)
UNREADABLE: dict[str, dict[str, Any]] = {
    "no id": {"id": "1"},
    "a key that is too long": {"key": "k" * 10_000},
    "an empty source": {"source": ""},
    "a line break in a type": {"type": "a\nb"},
    "NUL in a key": {"key": "a\0"},
    "NUL in data": {"data": b'"\\u0000"'},
    "half a surrogate in data": {"data": b'"\\ud800"'},
    "no JSON": {"data": b"{"},
    "no data": {"data": b""},
    "data that close the event": {"data": b'1, "id": "another"'},
    "two members of one name": {"data": b'{"a": 1, "a": 2}'},
    "a number that is too large": {"data": b"18446744073709551616"},
    "data that nest too deep": {"data": b"[" * 300 + b"]" * 300},
    "a time without a zone": {"time": NOW.replace(tzinfo=None)},
    "an id that is none among those undone": {"undoes": ("x",)},
}


def test_a_receiver_reads_what_was_packed_and_the_rest_of_its_time_stays_behind() -> None:
    packet = packed(NOTED, QUEUE, 16, keys=KEYS, now=NOW)

    found, statement = unpacked(packet, QUEUE, keys=KEYS)

    assert statement is None
    assert found.data == b'{"text":"a \\"name\\": in a text","large":18446744073709551615}'
    assert replace(found, data=NOTED.data) == replace(NOTED, expires_in=None)


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_no_receiver_could_read_is_not_packed(change: dict[str, Any]) -> None:
    envelope = replace(NOTED, **change)

    with pytest.raises((MalformedEnvelope, ValueError, TypeError)):
        from_structured(to_structured(envelope))
    with pytest.raises((MalformedEnvelope, ValueError, TypeError)):
        packed(envelope, QUEUE, 16, keys=KEYS, now=NOW)
