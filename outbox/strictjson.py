"""JSON that every reader and every database takes in the same way.

Stricter than RFC 8259: no NUL (PostgreSQL's jsonb refuses a whole statement because of one), no
lone surrogates, no NaN or infinity, integers from -2^63 to 2^64-1 (others read larger ones as
floats, so that two numbers become one), and at most `MAX_DEPTH` levels.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

MAX_DEPTH = 254
"""How deep lists and objects may nest; it is the limit of the encoder."""

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
# 2^63 has 19 digits, so no shorter run of digits can be out of range.
_LONG_NUMBER = b"0" * 19


def loads(data: bytes) -> Any:
    """The value. Raises ValueError with the reason where `data` is not JSON of this kind.

    The depth is not looked at: `dumps` does that, and so does `check`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None
    # The two scans cost less than a microsecond a kilobyte and almost never find anything; only
    # then is it worth looking where the bytes stand.
    if b"\\u0000" in data and _holds_nul(value):
        raise ValueError("it holds a NUL character, which databases cannot store")
    if _LONG_NUMBER in data.translate(_AS_ZERO):
        _refuse_large_integers(data)
    return value


def dumps(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact JSON of a value that `loads` gave. Raises ValueError where it nests too deep."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"it cannot be written as JSON ({error})") from None


def check(data: bytes) -> Any:
    """As `loads`, and the depth is within the limit too, so that `dumps` takes the value."""
    value = loads(data)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        dumps(value)
    return value


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


def _refuse_large_integers(data: bytes) -> None:
    def within_64_bits(text: str) -> int:
        if not _SMALLEST <= int(text) <= _LARGEST:
            raise ValueError(f"the integer {text[:24]} is beyond 64 bits; send it as text")
        return 0

    try:
        json.loads(data, parse_int=within_64_bits)
    except RecursionError:
        raise ValueError("it nests too deep") from None
