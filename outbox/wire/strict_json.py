"""JSON that every reader and every database takes in the same way.

Stricter than RFC 8259: no NUL (PostgreSQL's jsonb refuses a whole statement because of one), no
lone surrogates, no NaN or infinity, integers of 64 bits (others read larger ones as floats, so that
two numbers become one), no two members of one name in an object (one reader takes
the first, another the last), and at most `MAX_DEPTH` levels.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

import orjson

MAX_DEPTH = 254
"""How deep lists and objects may nest; it is the limit of the encoder."""

SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
"""The bounds of the integers that `check` takes: those of the databases' largest integer type."""

_LARGEST_READ = 2**64 - 1
_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
# 2^63 has 19 digits, so no shorter run of digits can be out of range.
_LONG_NUMBER = b"0" * 19
_CONTAINERS = frozenset({dict, list})
# Ends the name of a member; elsewhere only a text that holds an escaped quote looks like it.
_NAMED = re.compile(rb'"[ \t\r\n]*:')


def loads(data: bytes) -> Any:
    """The value. Raises ValueError with the reason where `data` is not JSON of this kind.

    The depth is not checked here: `dumps` and `check` do that. Integers go up to 2^64-1, so that
    one beyond `LARGEST_INTEGER` refuses only its own message and not the whole batch.
    """
    return _loaded(data, _LARGEST_READ)


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact JSON of a value that `loads` gave. Raises ValueError where it nests too deep."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"it cannot be written as JSON ({error})") from None


def check(data: bytes) -> Any:
    """The value, as `loads`, with integers from SMALLEST_INTEGER to LARGEST_INTEGER only and within
    the limit of depth, so that `dumps` takes it."""
    value = _loaded(data, LARGEST_INTEGER)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        dumps(value)
    return value


def _loaded(data: bytes, largest: int) -> Any:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
    # The scans cost little and almost never find anything; only a find is worth locating.
    if b"\\u0000" in data and _holds_nul(value):
        raise ValueError("it holds a NUL character, which databases cannot store")
    if _LONG_NUMBER in data.translate(_AS_ZERO):
        _refuse_large_integers(data, largest)
    require_names_once(data, value)
    return value


def require_names_once(data: bytes, value: Any) -> None:
    """Raise ValueError where an object in `data` has two members of one name. `value` is what a
    reader made of `data`."""
    # Two of one name have become one member of the value, so it has fewer than the text.
    if len(_NAMED.findall(data)) != _members(value):
        _refuse_two_of_one_name(data)


def _holds_nul(value: Any) -> bool:
    # No recursion: the reader takes more levels than Python's stack.
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                if "\0" in text:
                    return True
            case list() as items:
                waiting.extend(items)
            case dict() as members:
                waiting.extend(members)
                waiting.extend(members.values())
            case _:
                pass
    return False


def _refuse_large_integers(data: bytes, largest: int) -> None:
    def within_64_bits(text: str) -> int:
        if not SMALLEST_INTEGER <= int(text) <= largest:
            raise ValueError(
                f"the integer {text[:24]} is beyond 64 bits with a sign; send it as text"
            )
        return 0

    try:
        json.loads(data, parse_int=within_64_bits)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _members(value: Any) -> int:
    """The number of members of all objects in it together."""
    count = 0
    waiting = [value]
    while waiting:
        inner: Any = waiting.pop()
        if type(inner) is dict:
            count += len(inner)
            inner = inner.values()
        elif type(inner) is not list:
            continue
        waiting += [each for each in inner if type(each) in _CONTAINERS]
    return count


def _refuse_two_of_one_name(data: bytes) -> None:
    def each_once(members: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise ValueError(
                    f"an object has two members {reprlib.repr(name)}, and readers differ in which "
                    "of them counts"
                )
            seen.add(name)

    try:
        json.loads(data, object_pairs_hook=each_once)
    except RecursionError:
        raise ValueError("it nests too deep") from None
