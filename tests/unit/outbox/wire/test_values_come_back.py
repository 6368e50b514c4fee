"""A value that is encoded is read back equal and of the same types, or refused by its field."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from pydantic import AfterValidator, BaseModel, PlainSerializer, PrivateAttr
from pydantic_core import core_schema

from outbox.errors import InvalidMessage
from outbox.messages import Event
from outbox.wire.codec import decode, encode, encode_value, written_value
from outbox.wire.sameness import difference

BERLIN = ZoneInfo("Europe/Berlin")
EAST = timezone(timedelta(hours=2))


class Colour(Enum):
    RED = "red"


class Grade(IntEnum):
    GOOD = 1


class Mood(StrEnum):
    CALM = "calm"


class Row(NamedTuple):
    number: int
    tags: set[str]


@dataclass(frozen=True)
class Address:
    street: str


@dataclass(frozen=True)
class ForeignAddress(Address):
    country: str = ""


@dataclass(frozen=True, eq=False)
class Uncompared:
    text: str
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Growing:
    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text + "!")


@dataclass(frozen=True)
class Repeated:
    text: str
    shout: str = field(init=False)
    times: InitVar[int] = 1

    def __post_init__(self, times: int) -> None:
        object.__setattr__(self, "shout", self.text * times)


class Model(BaseModel):
    text: str
    _told: int = PrivateAttr(default=0)


class Dear(Model):
    name: str = ""


class Odd:
    """It equals nothing, and says so by raising."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, _: object) -> bool:
        raise ArithmeticError

    __hash__ = object.__hash__

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: Any) -> core_schema.CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(lambda it: it.text)
        return core_schema.no_info_plain_validator_function(cls, serialization=writer)


def told(count: int) -> Model:
    model = Model(text="a")
    model._told = count
    return model


@dataclass(frozen=True, kw_only=True)
class Sent(Event, type="tests.sent.v1", key="id"):
    id: str = "7"
    address: Address = Address("Rue 1")
    addresses: Sequence[Address] = field(default_factory=list)
    by_name: dict[str, Address] = field(default_factory=dict)
    text: str = ""
    mood: Mood = Mood.CALM
    number: int = 0
    real: float = 0.0
    price: Decimal = Decimal(0)
    at: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    day: date = date(2030, 1, 1)
    clock: time = time(12)
    took: timedelta = timedelta(0)
    queue: deque[int] = field(default_factory=deque)
    numbers: frozenset[int] = frozenset()
    row: Row | None = None
    pattern: re.Pattern[str] | None = None
    uncompared: Uncompared | None = None
    growing: Growing | None = None
    repeated: Repeated | None = None
    model: Model | None = None
    rounded: Annotated[float, PlainSerializer(lambda it: round(it, 1))] = 0.0
    lower: Annotated[str, AfterValidator(str.lower)] = ""
    anything: Any = None
    keyed: dict[Any, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"address": ForeignAddress("Rue 1", "FR")},
            "field 'address': a value of ForeignAddress would arrive as one of Address",
        ),
        ({"addresses": [Address("a"), ForeignAddress("b")]}, "'addresses.1': .* ForeignAddress"),
        ({"addresses": (Address("a"),)}, "field 'addresses': a value of tuple .* of list"),
        ({"by_name": {"a": ForeignAddress("b")}}, "field 'by_name.a': .* ForeignAddress"),
        ({"by_name": {Mood.CALM: Address("b")}}, "'by_name': of a key, a value of Mood .* of str"),
        ({"text": Mood.CALM}, "field 'text': a value of Mood would arrive as one of str"),
        ({"number": Grade.GOOD}, "field 'number': a value of Grade would arrive as one of int"),
        ({"number": True}, "field 'number': a value of bool would arrive as one of int"),
        # A whole number that fits is the float that it is given for.
        ({"real": 2**53 + 1}, "field 'real': it would arrive with another value"),
        ({"clock": time(12, tzinfo=BERLIN)}, "field 'clock': it would arrive with another value"),
        ({"queue": deque([1], maxlen=3)}, "field 'queue': it would arrive with another value"),
        ({"numbers": frozenset({True})}, "field 'numbers': a value of bool would .* of int"),
        ({"pattern": re.compile("a", re.IGNORECASE)}, "field 'pattern': it would arrive with ano"),
        ({"growing": Growing("a")}, "field 'growing.text': it would arrive with another value"),
        ({"repeated": Repeated("a", 2)}, "field 'repeated.shout': it would arrive with another"),
        ({"model": told(5)}, "field 'model._told': it would arrive with another value"),
        ({"model": Dear(text="a", name="b")}, "field 'model': a value of Dear .* as one of Model"),
        ({"rounded": 1.25}, "field 'rounded': it would arrive with another value"),
        ({"lower": "A"}, "field 'lower': it would arrive with another value"),
        ({"anything": (1,)}, "field 'anything': a value of tuple would arrive as one of list"),
        ({"anything": [{"a": Mood.CALM}]}, "field 'anything.0.a': a value of Mood .* of str"),
        ({"anything": Address("a")}, "field 'anything': a value of Address .* as one of dict"),
        ({"anything": date(2030, 1, 1)}, "field 'anything': a value of date .* as one of str"),
        ({"keyed": {1: 2}}, "field 'keyed': of a key, it would arrive with another value"),
    ],
)
def test_a_value_that_would_arrive_as_another_one_is_refused_naming_the_field(
    changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidMessage, match=why) as raised:
        encode(Sent(**changes))
    assert str(raised.value).startswith("tests.sent.v1 would not arrive as it was sent: ")
    assert raised.value.next_step


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": [Address("a"), Address("b")]},
        {"at": datetime(2030, 1, 31, 12, tzinfo=EAST)},
        {"at": datetime(2030, 10, 27, 2, 30, tzinfo=BERLIN)},
        {"at": datetime(2030, 10, 27, 2, 30, fold=1, tzinfo=BERLIN)},
        {"clock": time(12, 1, 2, 3, tzinfo=EAST)},
        {"took": -timedelta(microseconds=1)},
        {"took": timedelta.max},
        {"price": Decimal("-0.10")},
        {"real": -0.0},
        {"real": 2**53},
        {"queue": deque([1, 2])},
        {"numbers": frozenset({1, 2})},
        {"row": Row(1, {"a", "b"})},
        {"pattern": re.compile("a+")},
        {"uncompared": Uncompared("a", "b")},
        {"repeated": Repeated("a")},
        {"model": told(0)},
        {"rounded": 1.5},
        {"lower": "a"},
        {"anything": [{"a": [1, 1.0, None, True, "b"]}]},
        {"keyed": {"a": 1}},
    ],
)
def test_a_value_that_comes_back_is_sent(changes: dict[str, Any]) -> None:
    (name,) = changes
    message = Sent(**changes)
    read = decode(Sent, encode(message))
    assert difference(getattr(message, name), getattr(read, name)) is None


def test_a_field_that_a_class_does_not_compare_is_compared() -> None:
    assert difference(Uncompared("a", "b"), Uncompared("a", "c")) is not None
    assert difference(Uncompared("a", "b"), Uncompared("a", "b")) is None


def test_an_order_of_members_makes_no_difference() -> None:
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert difference({1, 2}, {2, 1}) is None


def test_what_cannot_be_compared_differs() -> None:
    assert difference(Odd("a"), Odd("a")) is not None
    with pytest.raises(InvalidMessage, match="would not arrive as it was sent"):
        encode_value(Odd("a"), Odd)


def test_an_error_never_quotes_the_value() -> None:
    with pytest.raises(InvalidMessage) as raised:
        encode(Sent(lower="SECRET"))
    assert "secret" not in str(raised.value).lower()


# --- Messages themselves, and values of a declared type ---------------------------------------


@dataclass(frozen=True)
class Special(Sent):
    extra: str = ""


class Abstract(Event, type="tests.abstract.v1", key="id"):
    pass


@dataclass(frozen=True)
class Concrete(Abstract):
    id: str


def test_a_message_that_has_its_type_from_another_one_would_arrive_as_that_one() -> None:
    with pytest.raises(InvalidMessage, match=r"Special has its type tests\.sent\.v1 from Sent"):
        encode(Special())
    assert decode(Concrete, encode(Concrete("7"))) == Concrete("7")


def test_a_value_is_written_as_the_type_that_its_reader_has() -> None:
    assert encode_value(Address("a"), Address) == {"street": "a"}
    assert encode_value([Address("a")], list[Address]) == [{"street": "a"}]
    assert written_value(Address("a"), Address) == b'{"street":"a"}'
    for value, tp in ((ForeignAddress("a"), Address), ((1,), list[int]), ({}, Address), (1, None)):
        with pytest.raises(InvalidMessage):
            encode_value(value, tp)
