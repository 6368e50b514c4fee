"""Copies of values with changed fields, made without the constructor."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from outbox import replacing
from outbox.replacing import quick

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked(Point):
    def __post_init__(self) -> None:
        raise ValueError("never made")


@dataclass(frozen=True)
class Loose:
    x: int


@quick
@dataclass(frozen=True, slots=True)
class Place(Generic[T]):
    """A place."""

    x: int
    found: T
    names: tuple[str, ...] = ()


@quick
@dataclass(frozen=True, slots=True)
class Town(Place[str]):
    people: int = 0


class Nowhere(Place[str]):
    pass


@pytest.mark.parametrize("changes", [{}, {"x": 5}, {"y": 0, "names": ("a",)}])
def test_a_copy_is_what_the_standard_library_makes(changes: dict[str, Any]) -> None:
    before = Point(1, names=("b",))
    copy = replacing.replace(before, **changes)
    assert copy == dataclasses.replace(before, **changes)
    assert hash(copy) == hash(dataclasses.replace(before, **changes))
    assert before == Point(1, names=("b",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.x = 3  # type: ignore[misc]  # that is what is tried


def test_a_field_that_there_is_not_is_refused() -> None:
    changes: dict[str, Any] = {"z": 1}
    with pytest.raises(TypeError, match="Point has no field 'z'"):
        replacing.replace(Point(1), **changes)


@pytest.mark.parametrize("value", [Loose(1), 7, object.__new__(Checked)])
def test_a_value_whose_constructor_would_count_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no dataclass with slots"):
        replacing.replace(value)


def test_a_quick_constructor_takes_what_the_plain_one_takes() -> None:
    made = Place(1, found="here", names=("a",))
    assert made == Place(1, "here", ("a",))
    assert repr(made) == "Place(x=1, found='here', names=('a',))"
    assert type(made) is Place
    assert made.names == ("a",)
    assert Place(1, "here").names == ()
    assert list(inspect.signature(Place).parameters) == ["x", "found", "names"]
    made_without: Any = Place
    with pytest.raises(TypeError, match="found"):
        made_without(1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        made_without(1, 2, z=3)


def test_a_quick_value_cannot_be_changed_and_can_be_copied_and_stored() -> None:
    made = Place(1, "here")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x = 3  # type: ignore[misc]  # that is what is tried
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.x
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
    assert hash(made) == hash(Place(1, "here"))
    assert replacing.replace(made, x=2) == dataclasses.replace(made, x=2) == Place(2, "here")


def test_a_class_below_a_quick_one_is_made_as_itself() -> None:
    town = Town(1, "here", people=7)
    assert type(town) is Town
    assert (town.x, town.people) == (1, 7)
    assert type(Nowhere(1, "here")) is Nowhere
    assert Nowhere(1, "here").found == "here"


def test_a_class_whose_constructor_does_more_cannot_be_quick() -> None:
    @dataclass(frozen=True, slots=True)
    class Growing:
        names: list[str] = field(default_factory=list)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        x: int

    for cls in (Growing, Named, Checked, Loose):
        with pytest.raises(TypeError, match=r"has a factory|goes by name|no dataclass with slots"):
            quick(cls)
