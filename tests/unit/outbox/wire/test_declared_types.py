"""Which declared types are refused, since not every value of them would arrive as it was sent."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    JsonValue,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    Tag,
    TypeAdapter,
)
from typing_extensions import TypeAliasType, TypedDict

from outbox.errors import InvalidMessage
from outbox.messages import Event
from outbox.wire.codec import decode, encode
from outbox.wire.json_types import shape_of
from outbox.wire.shape import Shape
from outbox.wire.unions import comes_back


class Colour(Enum):
    RED = "red"
    BLUE = 7


class Grade(IntEnum):
    GOOD = 1


class Mood(StrEnum):
    CALM = "calm"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Planet(Enum):
    EARTH = (1, 2)


class Feast(Enum):
    EASTER = date(2030, 4, 21)


@dataclass(frozen=True)
class Credit:
    account: str
    cents: int


@dataclass(frozen=True)
class Debit:
    account: str
    cents: int


@dataclass(frozen=True)
class Card:
    number: str
    holder: str = ""


@dataclass(frozen=True)
class Transfer:
    iban: str
    holder: str = ""


@dataclass(frozen=True)
class Short:
    x: int


@dataclass(frozen=True)
class Long:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Cat:
    name: str
    kind: Literal["cat"] = "cat"


@dataclass(frozen=True)
class Dog:
    name: str
    kind: Literal["dog"] = "dog"


@dataclass(frozen=True)
class Fixed:
    name: str
    kind: Literal["fixed"] = field(init=False, default="fixed")


class Model(BaseModel):
    name: str


class OtherModel(BaseModel):
    name: str


class Row(NamedTuple):
    number: int
    tags: set[str]


class Place(TypedDict):
    name: str


class OtherPlace(TypedDict):
    name: str


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Tree | Card, ...] = ()


@dataclass(frozen=True)
class Box:
    entries: dict[str, list[Credit | Debit]]


def as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Referring:
    """Types that stand in it more than once are references in its schema."""

    colour: Colour
    checked: Annotated[Colour, AfterValidator(as_it_is)]
    either: Annotated[Colour, AfterValidator(as_it_is)] | bool
    mood: Mood
    by_mood: dict[Mood, Cat]
    by_checked: dict[Annotated[Mood, AfterValidator(as_it_is)], Cat]
    cat: Annotated[Cat, AfterValidator(as_it_is)] | int
    more: list[Cat | None]
    plain: JsonValue
    plains: dict[str, JsonValue]
    path: Annotated[Path, AfterValidator(as_it_is)] | int


Number = NewType("Number", int)
T = TypeVar("T")


@dataclass(frozen=True)
class Several(Generic[T]):
    its: T


Nested = TypeAliasType("Nested", "dict[str, Nested] | list[Nested] | str | int | float | None")

SOUND: list[Any] = [
    *(str, int, float, bool, bytes, Decimal, date, datetime, time, timedelta, uuid.UUID, Path),
    *(Colour, Grade, Mood, Rights, Number, Row, Place, Model, Tree, Any, object, IPv4Address),
    *(list[int], tuple[int, ...], tuple[int, str], set[bytes], frozenset[tuple[int, str]]),
    *(Sequence[int], dict[str, Any], dict[int, str], dict[uuid.UUID, int], dict[Mood, int]),
    *(dict[bool, int], dict[float, int], dict[bytes, int], dict[Any, int], JsonValue, Nested),
    *(Credit | None, str | None, list[Credit | None], int | str, int | float, bool | int),
    *(bool | str, int | Decimal, float | Decimal, date | datetime, uuid.UUID | datetime),
    *(datetime | int, uuid.UUID | int, Mood | int, Grade | str, Literal["a", 1, True, None]),
    *(Literal["a"] | int, Literal["a"] | Literal["b"], Literal["a"] | str, Colour | bool),
    *(Annotated[str, Field(max_length=5)] | uuid.UUID, list[int] | list[str], list[int] | str),
    *(list[int] | list[float], dict[str, int | float], Several[int] | Several[str]),
    *(list[int] | dict[str, int], tuple[int] | tuple[int, int], dict[str, int] | dict[str, str]),
    *(Credit | str, Credit | list[Credit], Card | Transfer, Cat | Dog, Cat | Dog | None),
    *(dict[str, int] | Cat, tuple[int, str] | tuple[str, int], Any | None, Any | str | list[Any]),
    Annotated[Cat | Dog, Discriminator("kind")],
    Annotated[Cat | Fixed, Discriminator("kind")],
    Annotated[
        Annotated[Credit, Tag("0")] | Annotated[Debit, Tag("1")],
        Discriminator(lambda it: str(it.get("cents", 0) % 2) if isinstance(it, dict) else "0"),
    ],
    Annotated[Decimal, PlainSerializer(str)],
    dict[Annotated[str, Field(pattern="^x-")], int],
    Referring,
]
CONFUSED: list[tuple[Any, str]] = [
    (Credit | Debit, "may be Credit or Debit"),
    (Debit | Credit | None, "may be Debit or Credit"),
    (list[Credit | Debit], "may be Credit or Debit"),
    (list[Credit] | list[Debit], "may be list or list"),
    (tuple[Credit, int] | tuple[Debit, int], "may be tuple or tuple"),
    (dict[str, Credit] | dict[str, Debit], "may be dict or dict"),
    (Short | Long, "may be Short or Long"),
    (Model | OtherModel, "may be Model or OtherModel"),
    (Card | Model | Cat, "may be Model or Cat"),
    (Place | OtherPlace, "may be Place or OtherPlace"),
    (Place | Model, "may be Place or Model"),
    (dict[str, Any] | Credit, "may be dict or Credit"),
    (Any | Credit, "may be Any or Credit"),
    (Any | datetime, "may be Any or datetime"),
    (list[int] | tuple[int, ...], "may be list or tuple"),
    (set[int] | list[int], "may be set or list"),
    (float | Any, "may be float or Any"),
    (dict[str, int] | dict[str, float], "may be dict or dict"),
    (dict[str, list[int]] | dict[str, list[float]], "may be dict or dict"),
    (tuple[int, ...] | tuple[float, ...], "may be tuple or tuple"),
    (tuple[int] | tuple[float, ...], "may be tuple or tuple"),
    (set[int] | set[float], "may be set or set"),
    (Several[int] | Several[float], "may be Several or Several"),
    (bytes | str, "may be bytes or str"),
    (datetime | str, "may be datetime or str"),
    (uuid.UUID | str, "may be UUID or str"),
    (Decimal | str, "may be Decimal or str"),
    (Decimal | date, "may be Decimal or date"),
    (time | timedelta, "may be time or timedelta"),
    (Path | str, "may be Path or str"),
    (Colour | str, "may be Colour or str"),
    (Colour | float, "may be Colour or float"),
    (Grade | int, "may be Grade or int"),
    (Mood | Literal["calm"], "may be Mood or Literal"),
    (Literal[1] | float, "may be Literal.1. or float"),
    (Annotated[int | float, Field(union_mode="left_to_right")] | Colour, "may be int or Colour"),
    (dict[int | str, int], "a key of it may be int or str"),
    (dict[str | None, int], "a key of it may be None or str"),
    (dict[int, int] | dict[str, int], "may be dict or dict"),
]
LOST: list[tuple[Any, str]] = [
    (SecretStr, "it is of SecretStr, which is not read as it was written"),
    (SecretBytes, "it is of SecretBytes, which is not read"),
    (Secret[int], "which is not read as it was written"),
    (Annotated[float, PlainSerializer(round)], "it is of float, which is not read"),
    (Planet, "it is of Planet, and not each of its values is read"),
    (Feast, "it is of Feast, and not each of its values is read"),
    (Literal[b"a"], "not each of its values is read"),
    (Json[int], "which JSON cannot carry"),
    (Callable[[int], int], "which JSON cannot carry"),
    (type[int], "which JSON cannot carry"),
    (Iterable[int], "which JSON cannot carry"),
    (dict[tuple[int, int], str], "a key of it is of tuple"),
    (dict[Credit, str], "a key of it is of Credit"),
    (dict[Literal[1], str], "a key of it is of Literal"),
]


@pytest.mark.parametrize("tp", SOUND)
def test_a_type_whose_values_come_back_is_taken(tp: Any) -> None:
    shape_of(tp)


@pytest.mark.parametrize(("tp", "why"), CONFUSED + LOST)
def test_a_type_whose_values_do_not_come_back_is_refused(tp: Any, why: str) -> None:
    with pytest.raises(InvalidMessage, match=f"would not arrive as it was sent: .*{why}") as raised:
        shape_of(tp)
    assert raised.value.next_step


ATOMS: dict[Any, list[Any]] = {
    int: [0, 5, 2**62],
    float: [0.0, 1.0, 7.0, 0.5],
    bool: [True, False],
    str: [
        *("", "a", "red", "calm", "YWJj", "1", "1.50", "86400", "P1D", "PT1H", "12:00:00", "a/b"),
        *("2030-01-31", "2030-01-31T00:00:00Z", "0190a000-0000-7000-8000-000000000002"),
        *("127.0.0.1", "None"),
    ],
    bytes: [b"", b"abc", b"\xff\xfe", bytes(24), b"=\x1a\xdb", bytes.fromhex("d34d34d34d34" * 4)],
    Decimal: [Decimal("0"), Decimal("1.50"), Decimal("86400"), Decimal("1E+3")],
    date: [date(1970, 1, 1), date(2030, 1, 31)],
    datetime: [datetime(2030, 1, 31, tzinfo=UTC), datetime(2030, 1, 31, 12, tzinfo=UTC)],
    time: [time(0), time(12), time(12, 0, 0, 5), time(12, tzinfo=UTC)],
    timedelta: [timedelta(0), timedelta(1), timedelta(hours=12), timedelta(hours=-1)],
    uuid.UUID: [uuid.UUID(int=5)],
    Colour: list(Colour),
    Grade: list(Grade),
    Mood: list(Mood),
    Path: [
        *(Path("a/b"), Path("red"), Path("2030-01-31"), Path("12:00:00"), Path("P1D"), Path("1")),
        *(Path("calm"), Path("2030-01-31T00:00:00Z"), Path("YWJj"), Path("127.0.0.1")),
        Path("0190a000-0000-7000-8000-000000000002"),
    ],
    IPv4Address: [IPv4Address("127.0.0.1")],
    type(None): [None],
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(ATOMS, 2)), ids=str)
def test_two_types_are_taken_as_a_union_where_pydantic_tells_all_their_values_apart(
    one: Any, other: Any
) -> None:
    values = ATOMS[one] + ATOMS[other]
    both = [make_dataclass("Holding", [("it", it)]) for it in (one | other, other | one)]
    raw = [Shape(TypeAdapter(cls).core_schema) for cls in both]
    safe = all(
        comes_back(shape, cls(value))
        for cls, shape in zip(both, raw, strict=True)
        for value in values
    )
    for cls in both:
        if safe:
            shape_of(cls)
        else:
            with pytest.raises(InvalidMessage, match="the field 'it' of Holding may be"):
                shape_of(cls)


# --- Fields ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Booked(Event, type="bank.booked.v1", key="id"):
    id: str
    entry: Credit | Debit


@dataclass(frozen=True)
class Boxed(Event, type="bank.boxed.v1", key="id"):
    id: str
    box: Box | None = None


@dataclass(frozen=True)
class Paid(Event, type="bank.paid.v1", key="id"):
    id: str
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (
            Booked("7", Credit("DE1", 5)),
            "Booked would .*: the field 'entry' of Booked may be Credit or Debit",
        ),
        (Boxed("7"), "Boxed would .*: the field 'entries' of Box may be Credit or Debit"),
    ],
)
def test_the_error_names_class_and_field_and_shows_the_way_out(message: Event, where: str) -> None:
    for use in (encode, lambda it: decode(type(it), b"{}")):
        with pytest.raises(InvalidMessage, match=where) as raised:
            use(message)
        assert "Discriminator('kind')" in raised.value.next_step


@pytest.mark.parametrize("pet", [Cat("Tom"), Dog("Rex")])
def test_the_way_out_leads_out(pet: Cat | Dog) -> None:
    assert decode(Paid, encode(Paid("7", pet))).pet == pet


@dataclass(frozen=True)
class Initial:
    id: str
    seed: InitVar[int]


@dataclass(frozen=True)
class Hidden:
    id: str
    note: Annotated[str, Field(exclude=True)] = ""


@dataclass(frozen=True)
class Renamed:
    id: Annotated[str, Field(alias="identity")]


@dataclass(frozen=True)
class Chosen:
    id: Annotated[str, Field(validation_alias=AliasChoices("number", "identity"))]


@dataclass(frozen=True)
class Written:
    id: Annotated[str, Field(serialization_alias="identity")]


@dataclass(frozen=True)
class ReadAsBoth:
    id: Annotated[str, Field(validation_alias=AliasChoices("id", "identity"))]


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_name=True)
    id: str = Field(alias="identity")


class ByAlias(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    id: str = Field(alias="identity")


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Initial, "the field 'seed' of Initial is an InitVar"),
        (Hidden, "the field 'note' of Hidden is excluded"),
        (Renamed, "the field 'id' of Renamed is written as 'id', and read under another name"),
        (Chosen, "the field 'id' of Chosen is written as 'id', and read under another name"),
    ],
)
def test_a_field_that_is_not_written_as_it_is_read_is_refused(cls: type[Any], why: str) -> None:
    with pytest.raises(InvalidMessage, match=why):
        shape_of(cls)


@pytest.mark.parametrize(
    "value", [Written("7"), ReadAsBoth("7"), ByName(id="7"), ByAlias(identity="7")]
)
def test_an_alias_by_which_nothing_is_lost_is_taken(value: object) -> None:
    assert comes_back(shape_of(type(value)), value)
