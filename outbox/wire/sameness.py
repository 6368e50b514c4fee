"""Whether a value that was read is the one that was written: equal, and of the same types at every
depth.

A type's own `==` says less: 1 equals True, a dataclass may leave fields out of it, and a StrEnum
equals its text. There are two exceptions. Times travel in UTC, so the same moment in another zone
is the same time. And an `int` given for a `float` is that float, as Python's own typing has it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from outbox.wire.attributes import utc


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which two values differ, and what became of the one that was sent."""

    path: tuple[str | int, ...]
    problem: str

    def below(self, step: str | int) -> Difference:
        """The same difference, seen from a value that holds these at `step`."""
        return Difference((step, *self.path), self.problem)


def difference(sent: Any, read: Any) -> Difference | None:
    """None where `read` is what was sent. The values themselves are never quoted."""
    kind = type(sent)
    if kind is int and type(read) is float:
        return None if sent == read else _CHANGED
    if kind is not type(read):
        return Difference(
            (), f"a value of {kind.__name__} would arrive as one of {type(read).__name__}"
        )
    if kind in _BY_EQUALITY:
        return None if sent == read else _CHANGED
    compare: _Comparison = _comparison(kind)  # type: ignore[arg-type]  # a class is hashable
    return compare(sent, read)


_BY_EQUALITY = frozenset({str, int, bool, float, type(None), bytes, Decimal, UUID, date, timedelta})
_CHANGED = Difference((), "it would arrive with another value")
_Comparison = Callable[[Any, Any], Difference | None]


@functools.lru_cache(maxsize=4096)
def _comparison(kind: type[Any]) -> _Comparison:
    if dataclasses.is_dataclass(kind):
        return functools.partial(_attributes, tuple(it.name for it in dataclasses.fields(kind)))
    for base, comparison in _BY_BASE:
        if issubclass(kind, base):
            return comparison
    return _by_equality


def _attributes(names: Iterable[str], sent: Any, read: Any) -> Difference | None:
    for name in names:
        found = difference(getattr(sent, name), getattr(read, name))
        if found is not None:
            return found.below(name)
    return None


def _models(sent: BaseModel, read: BaseModel) -> Difference | None:
    found = _attributes(type(sent).model_fields, sent, read)
    if found is not None:
        return found
    for beside in ("__pydantic_extra__", "__pydantic_private__"):
        found = difference(getattr(sent, beside), getattr(read, beside))
        if found is not None:
            return found
    return None


def _moments(sent: datetime, read: datetime) -> Difference | None:
    # In UTC, since `==` takes no time in the hour that a clock repeats for equal across zones.
    return None if sent == read or utc(sent) == utc(read) else _CHANGED


def _times_of_day(sent: time, read: time) -> Difference | None:
    # A zone without a fixed offset is lost in writing, and `==` does not look at it.
    zones = (sent.tzinfo is None, sent.utcoffset()), (read.tzinfo is None, read.utcoffset())
    return None if sent == read and zones[0] == zones[1] else _CHANGED


def _sequences(sent: Any, read: Any) -> Difference | None:
    if len(sent) != len(read):
        return _CHANGED
    for index, (one, other) in enumerate(zip(sent, read, strict=True)):
        found = difference(one, other)
        if found is not None:
            return found.below(index)
    return None


def _deques(sent: deque[Any], read: deque[Any]) -> Difference | None:
    return _sequences(sent, read) if sent.maxlen == read.maxlen else _CHANGED


def _members(sent: Any, read: Any) -> Difference | None:
    """As sets; of dicts the keys."""
    if len(sent) != len(read):
        return _CHANGED
    found = {each: each for each in read}
    for each in sent:
        if each not in found:
            return _CHANGED
        differing = difference(each, found[each])
        if differing is not None:
            return differing
    return None


def _dicts(sent: Any, read: Any) -> Difference | None:
    differing = _members(sent, read)
    if differing is not None:
        return Difference(differing.path, f"of a key, {differing.problem}")
    for key, value in sent.items():
        differing = difference(value, read[key])
        if differing is not None:
            return differing.below(str(key))
    return None


def _by_equality(sent: Any, read: Any) -> Difference | None:
    try:
        is_equal = bool(sent == read)
    except Exception:  # a comparison of the user's own may do anything
        is_equal = False
    return None if is_equal else _CHANGED


_BY_BASE: tuple[tuple[type[Any], _Comparison], ...] = (
    (BaseModel, _models),
    (datetime, _moments),
    (time, _times_of_day),
    (deque, _deques),
    (list, _sequences),
    (tuple, _sequences),
    (dict, _dicts),
    (set, _members),
    (frozenset, _members),
)
