"""Which classes can be messages, and what their declarations mean for the JSON."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import pytest
from pydantic import Field, model_serializer
from typing_extensions import TypedDict

from outbox.errors import InvalidMessage
from outbox.messages import Event
from outbox.wire.codec import decode, decode_value, encode

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Small(Event, type="tests.small.v1", key="id"):
    id: str
    number: int = 0
    real: float = 0.0
    anything: Any = None


@dataclass(frozen=True)
class Undeclared(Event):
    id: str


class Undecorated(Event, type="tests.undecorated.v1", key="id"):
    id: str


class Widened(Small, type="tests.widened.v1", key="id"):
    extra: str


@dataclass(frozen=True)
class Unsendable(Event, type="tests.unsendable.v1", key="id"):
    id: str
    what: Lock


@dataclass(frozen=True)
class Unresolved(Event, type="tests.unresolved.v1", key="id"):
    id: str
    what: Nowhere  # type: ignore[name-defined]  # noqa: F821 - the mistake under test


@dataclass(frozen=True)
class Computed(Event, type="tests.computed.v1", key="id"):
    id: str
    shout: str = field(init=False)
    times: InitVar[int] = 1

    def __post_init__(self, times: int) -> None:
        object.__setattr__(self, "shout", self.id.upper() * times)


@dataclass(frozen=True)
class Writing(Event, type="tests.writing.v1", key="id"):
    id: str
    text: str

    @model_serializer
    def _written(self) -> dict[str, str]:
        return {"id": self.id, "text": self.text}


def test_a_class_without_a_type_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="Undeclared declares no message type"):
        encode(Undeclared("7"))
    with pytest.raises(InvalidMessage, match="Undeclared declares no message type"):
        decode(Undeclared, b'{"id":"7"}')


@pytest.mark.parametrize("cls", [Undecorated, Widened])
def test_a_class_without_its_own_decorator_is_refused(cls: type[Event]) -> None:
    with pytest.raises(InvalidMessage, match=r"not a dataclass; put @dataclass\(frozen=True\)"):
        decode(cls, b'{"id":"7"}')


@pytest.mark.parametrize("cls", [Unsendable, Unresolved])
def test_a_field_that_json_cannot_carry_is_refused(cls: type[Event]) -> None:
    with pytest.raises(InvalidMessage, match=f"{cls.__name__} cannot be sent") as raised:
        decode(cls, b'{"id":"7"}')
    assert "top level of a module" in raised.value.next_step


def test_a_field_that_the_class_computes_is_computed_again() -> None:
    assert decode(Computed, b'{"id":"a","shout":"wrong"}') == Computed("a")


@dataclass(frozen=True)
class Defaulted:
    odd: dict[str, str] = Field(default={"type": "datetime"})  # noqa: RUF009 - it is data here


class Keys(TypedDict):
    type: str
    default: datetime
    raw: bytes


def test_a_default_that_looks_like_a_schema_is_left_alone() -> None:
    assert decode_value(Defaulted, {}).odd == {"type": "datetime"}


def test_a_field_may_have_the_name_of_a_part_of_a_schema() -> None:
    value = {"type": "dataclass", "default": "2030-01-31T12:00:00Z", "raw": "__4="}
    read = decode_value(Keys, value)
    assert read == {"type": "dataclass", "default": NOON, "raw": b"\xff\xfe"}
    with pytest.raises(InvalidMessage, match=r"field 'default'.*RFC 3339"):
        decode_value(Keys, value | {"default": "5"})


def test_no_field_is_blamed_where_the_class_writes_itself() -> None:
    assert decode(Writing, encode(Writing("7", "a"))) == Writing("7", "a")
    with pytest.raises(InvalidMessage, match="does not fit its declaration: it holds a NUL"):
        encode(Writing("7", "\0"))
