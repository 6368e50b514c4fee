"""Generated dataclasses: each is refused naming a field, or all that is sent of it comes back."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from itertools import count
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox.errors import InvalidMessage
from outbox.messages import Event
from outbox.wire.codec import check_class, decode, encode
from tests.support.outbox.envelopes import json_values, times


class Colour(Enum):
    RED = "red"
    BLUE = 7


class Grade(IntEnum):
    GOOD = 1


class Mood(StrEnum):
    CALM = "calm"


class _Declared(Event, type="tests.generated.v1", key="id"):
    pass


Values: TypeAlias = "st.SearchStrategy[Any]"
_TEXTS: Values = st.sampled_from(["", "a", "red", "calm", "1", "86400", "P1D", "None", "YWJj"]) | (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    | st.dates().map(str)
    | st.uuids().map(str)
    | times().map(lambda it: it.astimezone(UTC).isoformat())
)
_ATOMS: list[tuple[Any, Values]] = [
    (str, _TEXTS),
    (int, st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 7])),
    (float, st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1.0, 7.0])),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=12)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False) | st.just(Decimal(1))),
    (datetime, times()),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Grade, st.sampled_from(Grade)),
    (Mood, st.sampled_from(Mood)),
    (PurePosixPath, _TEXTS.map(PurePosixPath)),
    (Literal["a", "red", 1], st.sampled_from(["a", "red", 1])),
    (Any, json_values()),
    (type(None), st.none()),
]
# As values, since a type checker would read `list[tp]` as a type.
_LIST: Any = list
_TUPLE: Any = tuple
_SET: Any = set
_FROZENSET: Any = frozenset
_DICT: Any = dict
_NAMES = ("a", "b", "c")
_number = count()


@dataclass(frozen=True)
class Kind:
    """A type, and the values that it may be given: its own, and some that only a type checker
    would keep away."""

    tp: Any
    values: Values


@st.composite
def classes(draw: st.DrawFn, inner: st.SearchStrategy[Kind]) -> Kind:
    """A dataclass with one to three fields, some with a default, and a subclass of it."""
    fields = draw(st.dictionaries(st.sampled_from(_NAMES), inner, min_size=1, max_size=3))
    declared: list[Any] = []
    for name, kind in fields.items():
        if draw(st.booleans()):
            default = functools.partial(copy.copy, draw(kind.values))
            declared.append((name, kind.tp, dataclasses.field(default_factory=default)))
        else:
            declared.append((name, kind.tp))
    options: Any = {"frozen": True, "slots": draw(st.booleans()), "kw_only": True}
    options["eq"] = draw(st.booleans())
    name = f"Generated{next(_number)}"
    cls = make_dataclass(name, declared, **options)
    values = st.builds(cls, **{name: kind.values for name, kind in fields.items()})
    if draw(st.integers(0, 9)) == 0:
        sub = make_dataclass(f"Sub{name}", [], bases=(cls,), frozen=True, kw_only=True)
        values |= st.builds(sub, **{name: kind.values for name, kind in fields.items()})
    return Kind(cls, values)


def _containers(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    keys = st.sampled_from([kind for kind in _ATOMS if kind[0] is not Any])

    def of(make: Callable[[Any], Any], values: Callable[[Values], Values]) -> Any:
        return inner.map(lambda kind: Kind(make(kind.tp), values(kind.values)))

    def hashable(make: Callable[[Any], Any], wrap: Callable[[Any], Any]) -> Any:
        return keys.map(lambda it: Kind(make(it[0]), st.lists(it[1], max_size=3).map(wrap)))

    containers: st.SearchStrategy[Kind] = (
        of(lambda tp: _LIST[tp], lambda it: st.lists(it, max_size=3))
        | of(lambda tp: _TUPLE[tp, ...], lambda it: st.lists(it, max_size=3).map(tuple))
        | of(lambda tp: tp | None, lambda it: it | st.none())
        | hashable(lambda tp: _SET[tp], set)
        | hashable(lambda tp: _FROZENSET[tp], frozenset)
        | st.builds(
            lambda key, kind: Kind(
                _DICT[key[0], kind.tp], st.dictionaries(key[1], kind.values, max_size=3)
            ),
            keys,
            inner,
        )
        | st.builds(
            lambda one, other: Kind(_TUPLE[one.tp, other.tp], st.tuples(one.values, other.values)),
            inner,
            inner,
        )
        | st.builds(
            lambda one, other: Kind(one.tp | other.tp, one.values | other.values),
            inner,
            inner,
        )
        | classes(inner)
    )
    return containers


_KINDS = st.recursive(
    st.sampled_from([Kind(tp, values) for tp, values in _ATOMS]), _containers, max_leaves=6
)


def alike(sent: Any, read: Any) -> bool:
    """The same in all that can be seen of it, judged without the code under test."""
    if type(sent) is not type(read):
        return False
    if dataclasses.is_dataclass(sent):
        names = [it.name for it in dataclasses.fields(sent)]
        return all(alike(getattr(sent, name), getattr(read, name)) for name in names)
    match sent:
        case list() | tuple():
            return len(sent) == len(read) and all(map(alike, sent, read))
        case dict():
            found = {key: (key, value) for key, value in read.items()}
            return sent.keys() == found.keys() and all(
                alike(item, found[item[0]]) for item in sent.items()
            )
        case set() | frozenset():
            members = {each: each for each in read}
            return len(sent) == len(members) and all(
                each in members and alike(each, members[each]) for each in sent
            )
        case datetime():
            return (sent.astimezone(UTC),) == (read.astimezone(UTC),)
        case time():
            return (sent, sent.utcoffset()) == (read, read.utcoffset())
        case _:
            return bool(sent == read)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_class_is_refused_or_all_that_is_sent_of_it_comes_back(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(_KINDS, min_size=1, max_size=3))
    names = [f"field{place}" for place in range(len(kinds))]
    fields: list[Any] = [("id", str), *zip(names, [kind.tp for kind in kinds], strict=True)]
    cls: Any = make_dataclass("Generated", fields, bases=(_Declared,), frozen=True)
    refusal = _refusal(lambda: check_class(cls))
    if refusal is not None:
        assert "the field '" in refusal.problem
        assert refusal.next_step
        return
    for _ in range(5):
        message = cls("7", *[data.draw(kind.values) for kind in kinds])
        refusal = _refusal(lambda sent=message: encode(sent))  # type: ignore[misc]  # bound now
        if refusal is None:
            assert alike(message, decode(cls, encode(message)))
        else:
            assert any(_is_named(name, refusal) for name in names)


def _refusal(use: Callable[[], object]) -> InvalidMessage | None:
    try:
        use()
    except InvalidMessage as error:
        return error
    return None


def _is_named(field: str, refusal: InvalidMessage) -> bool:
    # Python marks a text with double quotes where a single one is in it, as in "field0.b''".
    return re.search(rf"""['"]{field}\b""", refusal.problem) is not None


@pytest.mark.parametrize(
    ("tp", "key"), [(bytes, b""), (str, "it's"), (str, "'\""), (PurePosixPath, PurePosixPath("'"))]
)
def test_a_subclass_below_any_key_is_refused_by_the_name_of_its_field(tp: Any, key: Any) -> None:
    base: Any = make_dataclass("Base", [("a", Grade)], frozen=True)
    sub: Any = make_dataclass("SubBase", [], bases=(base,), frozen=True)
    fields: list[Any] = [("id", str), ("field0", _DICT[tp, base])]
    cls: Any = make_dataclass("Generated", fields, bases=(_Declared,), frozen=True)
    message = cls("7", {key: base(Grade.GOOD)})
    assert alike(message, decode(cls, encode(message)))
    refusal = _refusal(lambda: encode(cls("7", {key: sub(Grade.GOOD)})))
    assert refusal is not None
    assert "a value of SubBase would arrive as one of Base" in refusal.problem
    assert _is_named("field0", refusal)


def test_the_generator_makes_classes_of_both_kinds() -> None:
    with pytest.raises(InvalidMessage):
        check_class(make_dataclass("One", [("id", str), ("it", str | bytes)], bases=(_Declared,)))
    check_class(make_dataclass("Other", [("id", str), ("it", str | int)], bases=(_Declared,)))
