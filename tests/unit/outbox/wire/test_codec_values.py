"""The values of replies as JSON, there and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.errors import InvalidMessage, MessageTooLarge
from outbox.messages import Event
from outbox.wire.codec import MAX_MESSAGE_BYTES, decode_value, encode_value
from tests.support.outbox.envelopes import json_values, times

NAIVE = datetime(2030, 1, 31, 12)  # noqa: DTZ001 - what must be refused


class Colour(Enum):
    RED = "red"
    BLUE = 7


class Mood(StrEnum):
    CALM = "calm"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0
    seen: datetime | None = None
    raw: bytes = b""


@dataclass(frozen=True)
class Small(Event, type="tests.small.v1", key="id"):
    id: str
    number: int = 0
    real: float = 0.0
    anything: Any = None


_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_REALS = st.floats(allow_nan=False, allow_infinity=False)
_POINTS = st.builds(
    Point, x=_INTEGERS, y=_REALS, seen=st.none() | times(), raw=st.binary(max_size=9)
)


@settings(deadline=None)
@given(json_values())
def test_a_plain_value_of_a_reply_comes_back(value: Any) -> None:
    assert json.dumps(encode_value(value)) == json.dumps(value)
    assert json.dumps(decode_value(Any, encode_value(value))) == json.dumps(value)


@settings(deadline=None)
@given(_POINTS)
def test_a_dataclass_in_a_reply_comes_back(point: Point) -> None:
    assert decode_value(Point, encode_value(point)) == point
    assert decode_value(list[Point], encode_value([point, point])) == [point, point]


def test_nothing_comes_back_as_nothing() -> None:
    assert encode_value(None) is None
    decode_value(type(None), None)
    with pytest.raises(InvalidMessage):
        decode_value(type(None), 1)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (datetime(2030, 1, 31, tzinfo=UTC), "2030-01-31T00:00:00Z"),
        ([{"a": datetime(2030, 1, 31, tzinfo=UTC)}], [{"a": "2030-01-31T00:00:00Z"}]),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (Decimal("1.10"), "1.10"),
        (Colour.BLUE, 7),
        (Mood.CALM, "calm"),
        (b"\xff\xfe", "__4="),
        ((1, Point(2)), [1, {"x": 2, "y": 0.0, "seen": None, "raw": ""}]),
        (Small("7"), {"id": "7", "number": 0, "real": 0.0, "anything": None}),
    ],
)
def test_what_has_a_form_of_its_own_keeps_it_at_every_level(value: object, plain: object) -> None:
    assert encode_value(value) == plain


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": Point(1, y=float("nan"))},
        "\0",
        "\ud800",
        {"\0": 1},
        2**63,
        2**64,
        NAIVE,
        [NAIVE],
        Point(1, seen=NAIVE),
        Point("1"),  # type: ignore[arg-type]  # the mistake under test
        object(),
        test_nothing_comes_back_as_nothing,
    ],
)
def test_a_value_that_no_reader_would_take_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessage):
        encode_value(value)


def test_a_value_above_the_limit_is_refused() -> None:
    with pytest.raises(MessageTooLarge, match="the value str"):
        encode_value("x" * MAX_MESSAGE_BYTES)


def test_a_wrong_value_is_refused_naming_the_field() -> None:
    with pytest.raises(InvalidMessage, match=r"the value Point .* field 'x'"):
        decode_value(Point, {"x": "1"})
    with pytest.raises(InvalidMessage, match="the value Point"):
        decode_value(Point, None)
    with pytest.raises(InvalidMessage, match="NUL"):
        decode_value(str, "\0")
