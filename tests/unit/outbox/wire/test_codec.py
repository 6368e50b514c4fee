from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from outbox.contract import StartSaga
from outbox.errors import InvalidMessage, MessageTooLarge
from outbox.messages import Command, Event
from outbox.wire import strict_json
from outbox.wire.codec import MAX_MESSAGE_BYTES, decode, decode_value, encode
from outbox.wire.json_types import shape_of
from tests.support.outbox.envelopes import A_TIME, json_values, times

_ZERO = UUID(int=0)
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
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
class Node:
    name: str
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Happened(Event, type="tests.happened.v1", key="id"):
    id: str
    points: list[Point] = field(default_factory=list)
    tree: Node | None = None
    by_name: dict[str, Point] = field(default_factory=dict)
    by_day: dict[date, int] = field(default_factory=dict)
    by_time: dict[datetime, int] = field(default_factory=dict)
    colour: Colour = Colour.RED
    mood: Mood = Mood.CALM
    price: Decimal = Decimal("1.10")
    took: timedelta = timedelta(0)
    uuid: UUID = _ZERO
    either: int | str = 0
    kind: Literal["a", "b"] = "a"
    tags: frozenset[str] = frozenset()
    pair: tuple[int, str] = (0, "")
    sure: bool = True
    anything: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do(Command[Point], type="tests.do.v1", key="id"):
    id: str
    at: datetime


@dataclass(frozen=True)
class Small(Event, type="tests.small.v1", key="id"):
    id: str
    number: int = 0
    real: float = 0.0
    anything: Any = None


@dataclass(frozen=True)
class Tagged(Event, type="tests.tagged.v1", key="id"):
    id: str
    numbers: frozenset[int]
    raw: set[bytes] = field(default_factory=set)
    times: frozenset[datetime] = frozenset()


@dataclass(frozen=True)
class Bounded(Event, type="tests.bounded.v1", key="id"):
    id: str
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    later: Annotated[datetime, Field(ge=datetime(2030, 1, 1, tzinfo=UTC))] = datetime(
        2030, 1, 1, tzinfo=UTC
    )


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_REALS = st.floats(allow_nan=False, allow_infinity=False)
_POINTS = st.builds(
    Point, x=_INTEGERS, y=_REALS, seen=st.none() | times(), raw=st.binary(max_size=9)
)
_NODES = st.recursive(
    st.builds(Node, name=_TEXTS),
    lambda inner: st.builds(Node, name=_TEXTS, children=st.lists(inner, max_size=2).map(tuple)),
    max_leaves=4,
)
_MESSAGES = st.builds(
    Happened,
    id=_TEXTS,
    points=st.lists(_POINTS, max_size=2),
    tree=st.none() | _NODES,
    by_name=st.dictionaries(_TEXTS, _POINTS, max_size=2),
    by_day=st.dictionaries(st.dates(), _INTEGERS, max_size=2),
    by_time=st.dictionaries(times(), _INTEGERS, max_size=2),
    colour=st.sampled_from(Colour),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    took=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9999)),
    uuid=st.uuids(),
    either=_INTEGERS | _TEXTS,
    kind=st.sampled_from(["a", "b"]),
    tags=st.frozensets(_TEXTS, max_size=2),
    pair=st.tuples(_INTEGERS, _TEXTS),
    sure=st.booleans(),
    anything=json_values(),
)


# --- There and back --------------------------------------------------------------------------


@settings(deadline=None)
@given(_MESSAGES)
def test_a_message_comes_back_as_it_was(message: Happened) -> None:
    data = encode(message)
    assert decode(Happened, data) == message
    assert encode(decode(Happened, data)) == data


@settings(deadline=None)
@given(_TEXTS, times())
def test_a_slotted_message_comes_back_as_it_was(id: str, at: datetime) -> None:
    assert decode(Do, encode(Do(id=id, at=at))) == Do(id=id, at=at)


@settings(deadline=None)
@given(_MESSAGES)
def test_what_is_encoded_is_strict_json(message: Happened) -> None:
    strict_json.check(encode(message))


def test_the_json_holds_the_fields_and_nothing_else() -> None:
    seen = datetime(2030, 1, 31, 14, 0, 0, 1, timezone(timedelta(hours=2)))
    data = encode(Happened("7", points=[Point(1, 2.0, seen, b"\xff\xfe")]))
    assert set(json.loads(data)) == set(Happened.__dataclass_fields__)
    assert json.loads(data)["points"] == [
        {"x": 1, "y": 2.0, "seen": "2030-01-31T12:00:00.000001Z", "raw": "__4="}
    ]


def test_base64_is_read_in_both_alphabets() -> None:
    for text in ("__4=", "//4="):
        assert decode_value(Point, {"x": 1, "raw": text}).raw == b"\xff\xfe"


def test_times_are_read_as_utc_from_every_zone() -> None:
    read = decode(Do, b'{"id":"7","at":"2030-01-31T14:00:00+02:00"}')
    assert read.at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert read.at.tzinfo is UTC


def test_a_set_is_written_in_one_order_with_every_history() -> None:
    # 0 and 8 share a slot in a small set, so that the first one to come is the first one out.
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert list(one) != list(other)
    assert encode(Tagged("7", one)) == encode(Tagged("7", other))
    data = encode(Tagged("7", frozenset(), {b"\xff", b"\xfe"}, frozenset([A_TIME, NOON])))
    assert data == (
        b'{"id":"7","numbers":[],"raw":["_g==","_w=="],'
        b'"times":["2030-01-31T12:00:00.123456Z","2030-01-31T12:00:00Z"]}'
    )
    assert decode(Tagged, data).times == {A_TIME, NOON}


def test_unknown_fields_are_ignored_at_every_level() -> None:
    data = b'{"id":"7","new":{"a":[1]},"points":[{"x":1,"z":2}]}'
    assert decode(Happened, data) == Happened("7", points=[Point(1)])


def test_two_members_of_one_name_are_refused_by_their_name() -> None:
    with pytest.raises(InvalidMessage, match="two members 'number'"):
        decode(Small, b'{"id":"7","number":1,"number":2}')


def test_a_contract_of_this_package_can_be_sent() -> None:
    start = StartSaga("delete-article", {"article_id": "7", "nested": [{"a": None}]}, "8")
    assert decode(StartSaga, encode(start)) == start


# --- What is refused when reading ------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "field 'id': Field required"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"id":7}', "field 'id'"),
        (b'{"id":null}', "field 'id'"),
        (b'{"id":"\\u0000"}', "NUL"),
        (b'{"id":"\\ud800"}', "surrogate"),
        (b'{"id":"7","unknown":"\\u0000"}', "NUL"),
        (b'{"id":"7","unknown":18446744073709551616}', "64 bits"),
        (b'{"id":"7","unknown":NaN}', "not valid JSON"),
        (b'{"id":"7","points":{}}', "field 'points'"),
        (b'{"id":"7","points":[{"x":1},{}]}', "field 'points.1.x'"),
        (b'{"id":"7","points":[{"x":"1"}]}', "field 'points.0.x'"),
        (b'{"id":"7","points":[{"x":1.0}]}', "field 'points.0.x'"),
        (b'{"id":"7","points":[{"x":true}]}', "field 'points.0.x'"),
        (b'{"id":"7","points":[{"x":1,"y":"2"}]}', "field 'points.0.y'"),
        (b'{"id":"7","points":[{"x":1,"seen":5}]}', "field 'points.0.seen'.*RFC 3339"),
        (b'{"id":"7","points":[{"x":1,"seen":"5"}]}', "field 'points.0.seen'.*RFC 3339"),
        (b'{"id":"7","points":[{"x":1,"seen":"2030-01-31"}]}', "RFC 3339"),
        (b'{"id":"7","points":[{"x":1,"seen":"2030-01-31T12:00:00"}]}', "RFC 3339"),
        (b'{"id":"7","points":[{"x":1,"raw":"***"}]}', "field 'points.0.raw'.*base64"),
        (b'{"id":"7","tree":{"name":"a","children":[{}]}}', "field 'tree.children.0.name'"),
        (b'{"id":"7","colour":"green"}', "field 'colour'"),
        (b'{"id":"7","kind":"c"}', "field 'kind'"),
        (b'{"id":"7","sure":1}', "field 'sure'"),
        (b'{"id":"7","pair":[1]}', "field 'pair.1'"),
    ],
)
def test_wrong_data_is_refused_naming_the_field(data: bytes, why: str) -> None:
    with pytest.raises(InvalidMessage, match=why) as raised:
        decode(Happened, data)
    assert str(raised.value).startswith("tests.happened.v1 does not fit its declaration: ")
    assert raised.value.next_step


def test_an_error_shows_three_problems_and_counts_the_others() -> None:
    with pytest.raises(InvalidMessage) as raised:
        decode(Happened, b'{"points":[{},{},{},{}]}')
    assert raised.value.problem.count("Field required") == 3
    assert "and 2 more" in raised.value.problem


def test_an_error_never_quotes_the_message_at_length() -> None:
    data = json.dumps({"id": "7", "points": ["secret " * 1000]}).encode()
    with pytest.raises(InvalidMessage) as raised:
        decode(Happened, data)
    assert "secret" not in str(raised.value)


# --- What is refused when writing ------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Small(7), "field 'id': Expected `str`"),  # type: ignore[arg-type]  # the mistake under test
        (Small(None), "field 'id'"),  # type: ignore[arg-type]  # the mistake under test
        (Small("\0"), "field 'id': it holds a NUL"),
        (Small("\ud800"), "field 'id': .*surrogates"),
        (Small("7", number=2**63), "field 'number': .*64 bits"),
        (Small("7", number=2**64), "field 'number': .*64 bits"),
        (Small("7", number=-(2**63) - 1), "field 'number': .*64 bits"),
        (Small("7", number="1"), "field 'number': Expected `int`"),  # type: ignore[arg-type]  # the mistake under test
        (Small("7", real=float("nan")), "field 'real': it is not valid JSON"),
        (Small("7", real=float("-inf")), "field 'real': it is not valid JSON"),
        (Small("7", anything=float("nan")), "field 'anything': it is not valid JSON"),
        (Small("7", anything=[2**64]), "field 'anything': .*64 bits"),
        (Small("7", anything={"a": "\0"}), "field 'anything': .*NUL"),
        (Small("7", anything=object()), "field 'anything': .*object"),
        (Happened("7", points=[Point(1, seen=NAIVE)]), "field 'points': .*no time zone"),
        (Happened("7", by_time={NAIVE: 1}), "field 'by_time': .*no time zone"),
        (Happened("7", by_name={"a": Point("b")}), "field 'by_name': .*'x'"),  # type: ignore[arg-type]  # the mistake under test
        (Happened("7", tree=Point(1)), "field 'tree': .*'Point' object has no attribute 'name'"),  # type: ignore[arg-type]  # the mistake under test
        (Happened("7", price=Decimal("NaN")), "field 'price'"),
        (Happened("7", price=Decimal("-Infinity")), "field 'price'"),
        (Bounded("7", percent=101), "field 'percent'"),
        (Bounded("7", later=datetime(2029, 1, 1, tzinfo=UTC)), "field 'later'"),
    ],
)
def test_a_message_that_no_receiver_would_take_is_never_encoded(message: Event, why: str) -> None:
    with pytest.raises(InvalidMessage, match=why) as raised:
        encode(message)
    assert str(raised.value).startswith("tests.")


def test_a_message_nested_too_deep_is_never_encoded() -> None:
    deep: list[Any] = []
    for _ in range(260):
        deep = [deep]
    with pytest.raises(InvalidMessage):
        encode(Small("7", anything=deep))


def test_a_message_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    frame = len(encode(Small("")))
    largest = Small("x" * (MAX_MESSAGE_BYTES - frame))
    assert len(encode(largest)) == MAX_MESSAGE_BYTES == 256 * 1024
    with pytest.raises(MessageTooLarge, match=r"tests\.small\.v1 is 262145 bytes"):
        encode(Small(largest.id + "x"))
    with pytest.raises(MessageTooLarge, match="the limit is 10"):
        encode(Small("7"), limit=10)


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(MessageTooLarge):
        encode(Small("ü" * (MAX_MESSAGE_BYTES // 2)))


def test_a_shape_is_made_once_for_each_class() -> None:
    assert shape_of(Point) is shape_of(Point)
