"""Readers and writers of a CloudEvent's attributes, in JSON and in HTTP headers.

Every reader takes the attribute's name, its value as it came, and the event's position in its
batch (None outside of one), and raises MalformedEnvelope naming all three.
"""

from __future__ import annotations

import re
import reprlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import orjson

from outbox.errors import MalformedEnvelope
from outbox.ids import is_id

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
# CloudEvents' strings have no control characters; a surrogate alone is no text at all.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# The HTTP binding encodes the space, the double quote, the percent sign and all beyond ASCII.
_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def text(name: str, value: Any, limit: int, position: int | None) -> str:
    """A text of 1 to `limit` characters without control characters."""
    if not isinstance(value, str) or not 0 < len(value) <= limit or _UNPRINTABLE.search(value):
        problem = f"must be a text of 1 to {limit} printable characters, and is {short(value)}"
        raise wrong(name, position, problem)
    return value


def optional_text(name: str, value: Any, limit: int, position: int | None) -> str | None:
    """As `text`, or None where the attribute is absent."""
    return None if value is None else text(name, value, limit, position)


def identifier(name: str, value: Any, position: int | None) -> str:
    """A UUIDv7 in its canonical form."""
    if not isinstance(value, str) or not is_id(value):
        problem = f"must be a UUIDv7 in lower case, and is {short(value)}"
        raise wrong(name, position, problem)
    return value


def optional_identifier(name: str, value: Any, position: int | None) -> str | None:
    """As `identifier`, or None where the attribute is absent."""
    return None if value is None else identifier(name, value, position)


def identifiers(name: str, value: Any, position: int | None) -> tuple[str, ...]:
    """UUIDv7s separated by single spaces; an absent attribute is none of them."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise wrong(name, position, f"must be ids in one text, and is {short(value)}")
    return tuple(identifier(name, each, position) for each in value.split(" "))


def instant(name: str, value: Any, position: int | None) -> datetime:
    """An RFC 3339 time, turned to UTC; digits beyond the microseconds are dropped."""
    try:
        return moment(value)
    except ValueError as error:
        raise wrong(name, position, str(error)) from None


def optional_instant(name: str, value: Any, position: int | None) -> datetime | None:
    """As `instant`, or None where the attribute is absent."""
    return None if value is None else instant(name, value, position)


def optional_integer(name: str, value: Any, position: int | None) -> int | None:
    """A whole number in decimal digits, as text; None where the attribute is absent."""
    if value is None:
        return None
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise wrong(name, position, f"must be a whole number as text, and is {short(value)}")
    return int(value)


def media_type(name: str, value: Any, wanted: str, position: int | None) -> None:
    """The media type `wanted`, with any parameters."""
    if not isinstance(value, str) or value.partition(";")[0].strip().lower() != wanted:
        raise wrong(name, position, f"must be {wanted}, and is {short(value)}")


def trace(value: Any) -> str | None:
    """A W3C traceparent; None where it cannot be read, which is never a reason to refuse."""
    return value if isinstance(value, str) and _TRACE.fullmatch(value) else None


def moment(value: Any) -> datetime:
    """The moment in UTC that an RFC 3339 text tells. Raises ValueError where it is none."""
    # datetime alone takes many other forms: weeks, ordinals, dates without a time.
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return utc(datetime.fromisoformat(value.upper()))
        except (ValueError, OverflowError):
            pass
    raise ValueError(
        f"must be an RFC 3339 time such as 2030-01-31T12:00:00Z, and is {short(value)}"
    )


def utc(time: datetime) -> datetime:
    """The same moment in UTC. Raises ValueError where it has no zone."""
    if time.tzinfo is UTC:
        return time
    if time.utcoffset() is None:
        raise ValueError(f"{time!r} has no time zone; times that travel are in UTC")
    return time.astimezone(UTC)


def written(time: datetime) -> str:
    """RFC 3339 in UTC with Z; microseconds unless they are 0. Raises ValueError as `utc` does."""
    found = utc(time)
    if type(found) is datetime:  # the quick writer takes no others
        return orjson.dumps(found, option=orjson.OPT_UTC_Z)[1:-1].decode()
    return found.isoformat().removesuffix("+00:00") + "Z"


def quoted(value: str) -> str:
    """The value as it stands in a header of HTTP's binary mode: visible ASCII only."""
    return quote(value, safe=_UNQUOTED)


def unquoted(name: str, value: str) -> str:
    """The value in the header `name`: what `quoted` wrote, or another writer's quoted string."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if not value.isascii():
        raise wrong(name, None, "must be percent-encoded UTF-8, and has bytes beyond ASCII")
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise wrong(name, None, f"is not UTF-8 once decoded: {short(value)}") from None


def wrong(name: str, position: int | None, problem: str) -> MalformedEnvelope:
    """The error about the attribute `name`; `problem` completes its sentence."""
    where = "" if position is None else f" of event {position} of the batch"
    return MalformedEnvelope(
        f"the attribute {name!r}{where} {problem}",
        next_step="send the CloudEvents attributes that docs/guide/messages.md lists",
    )


def short(value: Any) -> str:
    """The value for an error message, cut to a readable length."""
    return "missing" if value is None else reprlib.repr(value)
