"""Input that is made up from the types of a saga's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from orchestrator.definition.saga import Saga
from orchestrator.definition.steps import Step, retriable
from orchestrator.errors import InvalidInput
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.testing import explore, sample_input
from outbox.messages import Command
from tests.support.orchestrator.trips import BOOKING, Trip


class Size(Enum):
    SMALL = "small"


class Rank(IntEnum):
    FIRST = 1


class Note(TypedDict):
    text: str


@dataclass(frozen=True)
class Address:
    city: str
    zip: Annotated[str, Field(min_length=5, max_length=5)]


@dataclass(frozen=True)
class Order:
    order_id: str
    address: Address
    ordered_at: datetime
    day: date
    patience: timedelta
    id: UUID
    price: Decimal
    weight: float
    many: Annotated[int, Field(gt=3)]
    few: Annotated[int, Field(ge=-5, le=0)]
    is_gift: bool
    picture: bytes
    size: Size
    rank: Rank
    how: Literal["by air", "by sea"]
    parts: list[Address]
    two: Annotated[list[str], Field(min_length=2)]
    tags: frozenset[str]
    pair: tuple[int, str]
    counts: dict[str, int]
    note: Note
    either: int | str
    maybe: str | None
    anything: Any
    usual: str = "as usual"
    lines: tuple[int, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Patterned:
    code: Annotated[str, Field(pattern="[A-Z]{7}")]


@dataclass(frozen=True)
class Endless:
    name: str
    next: list[Endless] = field(default_factory=list)


@dataclass(frozen=True)
class Ship(Command[None], type="shop.ship.v1", key="order_id"):
    order_id: str


@dataclass(frozen=True)
class Code(Command[Patterned], type="shop.code.v1", key="order_id"):
    order_id: str


def saga(state: type[Any], command: type[Any] = Ship) -> Saga[Any]:
    step: Step[Any] = retriable("ship", lambda it: command("o1"))
    return Saga(name="shipping", version=1, state=state, key=lambda it: "o1", steps=[step])


def test_a_text_is_the_name_of_its_field() -> None:
    assert sample_input(BOOKING) == Trip("trip")
    assert sample_input(delete_article) == Deletion("article-id")


def test_every_kind_of_field_gets_a_value_of_its_type() -> None:
    made = sample_input(saga(Order))
    assert made.address == Address("city", "zip--")
    assert (made.many, made.few, made.weight) == (4, -5, 1.0)
    assert (made.size, made.rank, made.how) == (Size.SMALL, Rank.FIRST, "by air")
    assert (made.two, made.pair, made.note) == (["two", "two"], (1, "pair"), {"text": "text"})
    assert (made.usual, made.maybe, made.either, made.lines) == ("as usual", None, 1, ())


def test_a_type_that_holds_itself_has_an_end() -> None:
    assert sample_input(saga(Endless)) == Endless("name")


def test_what_cannot_be_made_up_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="'code' must match a pattern; give one as state="):
        explore(saga(Patterned))
    explore(saga(Patterned), Patterned("ABCDEFG")).check()


def test_an_input_whose_key_cannot_be_told_is_asked_for() -> None:
    strict = Saga(
        name="shipping",
        version=1,
        state=Endless,
        key=lambda it: it.next[0].name,
        steps=[retriable("ship", lambda it: Ship("o1"))],
    )
    with pytest.raises(InvalidInput, match="give one as state="):
        sample_input(strict)


def test_an_answer_that_cannot_be_made_up_is_asked_for() -> None:
    coded = saga(Endless, Code)
    with pytest.raises(InvalidInput, match=r"give its values as replies=\{'ship': \[...\]\}"):
        explore(coded)
    explore(coded, replies={"ship": [Patterned("ABCDEFG")]}).check()


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ({"sail": [None]}, "'sail', which is no step"),
        ({"ship": []}, "no value for step 'ship'"),
        ({"ship": ["a text"]}, "what step 'ship'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(replies: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        explore(saga(Endless, Code), replies=replies)
