"""Answers of subscribers, and what each says of the events in its request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from outbox.transports.base import Unreachable

LONGEST_WAIT = 3600.0
"""Seconds; a subscriber that asks for a longer pause is tried again all the same."""

_OF_THE_BODY = (400, 413, 422)
_TOLD = 200
"""How many characters of a refusal's body go into its reason."""


@dataclass(frozen=True, slots=True)
class Status:
    """The part of an answer that counts; `told` is the beginning of its body."""

    code: int
    retry_after: str | None = None
    told: bytes = b""


@dataclass(frozen=True, slots=True)
class Taken:
    """The subscriber has taken the request's events."""


@dataclass(frozen=True, slots=True)
class Declined:
    """The subscriber refuses this request, and perhaps no other one. `is_of_one` tells that it may
    be for one of its events alone."""

    reason: str
    is_of_one: bool = False


def meaning(status: Status, now: datetime) -> Taken | Declined | Unreachable:
    """The meaning of an answer; `now` is aware."""
    match status.code:
        case code if 200 <= code < 300:
            return Taken()
        case 410:
            return Unreachable(f"{_reason(status)}: it wants no more events", sent=False, gone=True)
        case 429:
            return Unreachable(_reason(status), sent=False, retry_after=_wait(status, now))
        case 503 if (wait := _wait(status, now)) is not None:
            return Unreachable(_reason(status), sent=False, retry_after=wait)
        case code if 500 <= code < 600:
            return Unreachable(_reason(status), sent=True, retry_after=_wait(status, now))
        case code if 300 <= code < 400:
            return Declined(f"{_reason(status)}: redirects are not followed; correct the URL")
        case code:
            return Declined(_reason(status), is_of_one=code in _OF_THE_BODY)


def _wait(status: Status, now: datetime) -> float | None:
    """Seconds from now, from a number of seconds or an HTTP date; None where it is neither."""
    value = status.retry_after
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the second for numbers of any length
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST_WAIT)


def _reason(status: Status) -> str:
    try:
        phrase = f"{status.code} {HTTPStatus(status.code).phrase}"
    except ValueError:
        phrase = str(status.code)
    told = " ".join(status.told.decode("utf-8", "replace").split())[:_TOLD]
    return f"{phrase}: {told}" if told else phrase
