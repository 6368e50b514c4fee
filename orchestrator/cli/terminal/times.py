"""Times as people read them: how long something lasts, and how long ago it was. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
YEAR = 365 * 86400
"""The seconds of a year: no command waits longer."""
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_OLD = timedelta(seconds=-2)
"""`now` is the date of an answer over HTTP, which has no fractions and is made anew each second: so
far ahead of it lies what has just happened."""


def lasting(time: timedelta, units: int = 2) -> str:
    """The time in its greatest units, such as "3 d 2 h"; two of them, unless told."""
    rest, found = int(time.total_seconds()), list[str]()
    for unit, seconds in _UNITS:
        count, rest = divmod(rest, seconds)
        if count and len(found) < units:
            found.append(f"{count} {unit}")
        elif found:
            break
    return " ".join(found) or "0 s"


def duration(text: str) -> timedelta:
    """The time that such as "90s", "45m", "12h" or "30d" says. Raises ValueError for another
    text."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:20]!r} is no time such as 90s, 45m, 12h or 30d")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def ago(at: str | None, now: datetime) -> str:
    """How long before `now` that moment (RFC 3339) was, or how long after it it will be; empty for
    None."""
    if at is None:
        return ""
    passed = now - datetime.fromisoformat(at)
    if passed < _OLD:
        return f"in {lasting(-passed, 1)}"
    return f"{lasting(passed, 1)} ago" if passed >= timedelta(seconds=1) else "just now"


def to_the_second(at: str | None) -> str | None:
    """The moment (RFC 3339) in UTC, without fractions of its second."""
    if at is None:
        return None
    moment = datetime.fromisoformat(at).astimezone(UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def with_age(at: str | None, now: datetime) -> str | None:
    """The moment to the second, and how long ago it was."""
    return None if at is None else f"{to_the_second(at)} ({ago(at, now)})"
