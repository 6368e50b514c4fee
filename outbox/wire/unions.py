"""Whether what is written as one member of a union may be read as another one.

JSON tells its own kinds apart: null, true and false, number, text, array, object. Two members of
one kind are told apart by trying texts and numbers of every format on them; two arrays by an
element, and two objects by a field that both have and that tells, or by a field that each requires
and the other lacks. What a default fills in tells nothing: a sender may leave it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import orjson

from outbox.wire.sameness import difference
from outbox.wire.schema_parts import Items, Leaf, Members, Node, Part, SchemaParts, members_of
from outbox.wire.shape import Shape

_Mode: TypeAlias = Literal["smart", "left_to_right"]
"""How pydantic chooses among the members of a union: the one that fits best, or the first."""

_NUMBERS: tuple[object, ...] = (0, 1, -1, 0.5, 1.0)
_TEXTS = (
    *("", "a", "A", "abcd", "0", "1", "0000", "1000", "1.5", "1+2j", "1/3", "true", "None"),
    *("2030-01-31", "2030-01-31T12:00:00Z", "12:00:00", "PT1H", "P1D"),
    *("0190a000-0000-7000-8000-000000000002", "0190a000000070008000000000000002"),
    *("127.0.0.1", "::1", "http://127.0.0.1/", "a@b.example"),
)
_SAMPLES = [orjson.dumps(each) for each in (None, True, False, *_NUMBERS, *_TEXTS)]
_FORMATS = frozenset({"date", "datetime", "time", "uuid"})
"""Kinds of text of which none is ever another one's."""
CLOSED = frozenset({"enum", "literal"})
"""Kinds that list their values."""


def values_of(leaf: Leaf) -> Iterator[Any]:
    """Values that it has: all that there are where it lists them, else of each format that it
    reads. None where it reads no sample."""
    match leaf.core:
        case {"type": "enum", "members": values} | {"type": "literal", "expected": values}:
            yield from values
        case _:
            shape = Shape(leaf.node)
            for data in _SAMPLES:
                try:
                    value = shape.read(data)
                except Exception:  # functions of the user's read it, too
                    continue
                yield value


def comes_back(shape: Shape, value: Any) -> bool:
    """Whether the shape reads what it writes of that value, as the same."""
    try:
        read = shape.read(shape.write(value))
        # An int that was given for a float is that float elsewhere; here it is a member of its own.
        return type(read) is type(value) and difference(value, read) is None
    except Exception:  # functions of the user's write and read it, too
        return False


class KeyShape(Shape):
    """The writer and reader of what is the key of a dict: in JSON that is a text."""

    def __init__(self, schema: Any) -> None:
        super().__init__({"type": "dict", "keys_schema": schema})

    def write(self, value: object) -> bytes:
        """The JSON of a dict with that key alone. Raises ValueError."""
        return super().write({value: None})

    def read(self, data: bytes) -> Any:
        """The one key of that dict. Raises ValueError."""
        (key,) = super().read(data)
        return key


class Unions:
    """The unions of one schema."""

    def __init__(self, parts: SchemaParts) -> None:
        self._parts = parts
        self._compared: set[tuple[int, int]] = set()

    def confused(self, union: Node) -> tuple[Part, Part] | None:
        """Two parts of different members, of which one may be read as the other."""
        for one, other in itertools.combinations(members_of(union), 2):
            for pair in self._pairs(one, other):
                if not self._is_safe(*pair):
                    return pair
        return None

    def confused_keys(self, keys: Node) -> tuple[Part, Part] | None:
        """The same for what the keys of a dict may be."""
        for one, other in itertools.combinations(self._parts.parts(keys), 2):
            if not _are_safe_keys(one, other):
                return one, other
        return None

    def _pairs(self, one: Node, other: Node) -> Iterator[tuple[Part, Part]]:
        return itertools.product(self._parts.parts(one), self._parts.parts(other))

    def _safe(self, one: Node, other: Node, mode: _Mode) -> bool:
        return all(self._is_safe(*pair, mode) for pair in self._pairs(one, other))

    def _is_safe(self, one: Part, other: Part, mode: _Mode = "smart") -> bool:
        # What is compared further up is compared there: a recursive type meets itself again.
        pair = (id(one.node), id(other.node))
        if pair in self._compared:
            return True
        self._compared.add(pair)
        try:
            if isinstance(one, Leaf) and isinstance(other, Leaf):
                return _read_as_themselves(one, other, Shape, mode)
            return self._are_apart(one, other) or self._are_alike(one, other, mode)
        finally:
            self._compared.discard(pair)

    # One JSON text is one value

    def _are_alike(self, one: Part, other: Part, mode: _Mode) -> bool:
        # Of members of a union pydantic takes the one whose types fit best, and looks for that into
        # lists alone. Of other containers the first that can be read wins: a float reads an int.
        within: _Mode = mode if isinstance(one, Items) and one.makes == "list" else "left_to_right"
        match one, other:
            case Items(), Items():
                pairs = zip(_elements(one, other), _elements(other, one), strict=True)
                return one.makes == other.makes and all(
                    it is None or that is None or self._safe(it, that, within) for it, that in pairs
                )
            case Members(others=(keys, values)), Members(others=(other_keys, other_values)):
                return all(
                    _are_safe_keys(*it) for it in self._pairs(keys, other_keys)
                ) and self._safe(values, other_values, within)
            case Members(), Members():
                # A generic class may be there twice, with other types in its fields.
                return (one.makes is not None and one.makes == other.makes) and (
                    one.node is other.node
                    or all(
                        self._safe(one.fields[name], other.fields[name], within)
                        for name in one.fields
                    )
                )
            case (Leaf(core={"type": "any"} as anything), part) | (
                part,
                Leaf(core={"type": "any"} as anything),
            ):
                return self._is_plain(part, anything, mode)
            case _:
                return True  # a function of the user's reads one: only a value can tell

    def _is_plain(self, part: Part, anything: Node, mode: _Mode) -> bool:
        match part:
            case Items(makes="list", rest=dict() as inner):
                return self._safe(inner, anything, mode)
            case Members(others=({"type": "str"}, values)):
                return self._safe(values, anything, "left_to_right")
            case _:
                return False

    # No JSON text is of both

    def _apart(self, one: Node, other: Node) -> bool:
        return all(self._are_apart(*pair) for pair in self._pairs(one, other))

    def _are_apart(self, one: Part, other: Part) -> bool:
        match one, other:
            case Leaf(), Leaf():
                return _share_no_text(one, other)
            case Items(), Items():
                pairs = zip(_elements(one, other), _elements(other, one), strict=True)
                required = max(len(one.first), len(other.first))
                return any(
                    it is None or that is None or self._apart(it, that)
                    for it, that in itertools.islice(pairs, required)
                )
            case Members(), Members():
                return self._fields_apart(one, other)
            case (Leaf() as leaf, _) | (_, Leaf() as leaf):
                return leaf.kind != "any" and any(True for _ in values_of(leaf))
            case _:
                return True

    def _fields_apart(self, one: Members, other: Members) -> bool:
        if one.node is other.node:
            return False
        if _lacks(one, other.required) and _lacks(other, one.required):
            return True
        both = ((_told_by(one, name), _told_by(other, name)) for name in _telling(one, other))
        return any(self._apart(it, that) for it, that in both)


def _elements(one: Items, other: Items) -> list[Node | None]:
    """The elements up to the longer of the two beginnings, and what follows; None where there is
    none."""
    missing = max(0, len(other.first) - len(one.first))
    return [*one.first, *[one.rest] * missing, one.rest]


def _lacks(part: Members, names: frozenset[str]) -> bool:
    return part.others is None and not names <= part.fields.keys()


def _telling(one: Members, other: Members) -> list[str]:
    """The names of the fields of which both have one whenever either is read as the other."""
    match one.others, other.others:
        case None, None:
            return sorted(one.written & other.written)
        case _:
            return sorted(one.required | other.required)


def _told_by(part: Members, name: str) -> Node:
    return part.fields[name] if part.others is None else part.others[1]


def _read_as_themselves(
    one: Leaf, other: Leaf, shape: Callable[[Any], Shape], mode: _Mode = "smart"
) -> bool:
    # In both orders: Python takes unions of all orders for equal, and keeps the first of them.
    unions = [
        shape({"type": "union", "mode": mode, "choices": [each.node for each in order]})
        for order in ((one, other), (other, one))
    ]
    values = [value for leaf in (one, other) for value in values_of(leaf)]
    return all(comes_back(union, value) for union in unions for value in values)


def _are_safe_keys(one: Part, other: Part) -> bool:
    if not isinstance(one, Leaf) or not isinstance(other, Leaf):
        return True  # neither is a key that can be read, see `declarations`
    if "any" in {one.kind, other.kind}:
        return True  # a key that is no text is refused by its value
    return _read_as_themselves(one, other, KeyShape)


def _share_no_text(one: Leaf, other: Leaf) -> bool:
    if one.kind in CLOSED or other.kind in CLOSED:
        closed, reader = (one, other) if one.kind in CLOSED else (other, one)
        writer, reads = Shape(closed.node), Shape(reader.node)
        return not any(_reads(reads, writer.write(value)) for value in values_of(closed))
    if one.kind in _FORMATS and other.kind in _FORMATS:
        return one.kind != other.kind
    kinds, others = _json_kinds(one), _json_kinds(other)
    return bool(kinds) and bool(others) and kinds.isdisjoint(others)


def _json_kinds(leaf: Leaf) -> frozenset[type[Any]]:
    shape = Shape(leaf.node)
    read = (type(orjson.loads(data)) for data in _SAMPLES if _reads(shape, data))
    return frozenset(float if kind is int else kind for kind in read)


def _reads(shape: Shape, data: bytes) -> bool:
    try:
        shape.read(data)
    except Exception:  # functions of the user's read it, too
        return False
    return True
