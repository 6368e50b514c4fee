"""The meanings of the answers of plain HTTP services: from a status to what becomes of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from outbox.safe_text import fit
from outbox.wire import strict_json

MOST_BYTES = 1024 * 1024
"""The bytes of an answer that are read; a longer one says nothing."""
LONGEST_WAIT = 3600.0
"""The longest pause, in seconds, for which a Retry-After is heeded."""
_LONGEST_GUESS = 60.0


class Meaning(StrEnum):
    """The meaning of an answer."""

    DONE = "done"
    """It took effect."""
    WORKING = "working"
    """It was accepted (202), and how it ends is to be asked for."""
    REFUSED = "refused"
    """It was refused, and nothing changed."""
    LOCKED = "locked"
    """Another operation holds the entity (423)."""
    WAIT = "wait"
    """Nothing happened; the same request comes again later."""
    GONE = "gone"
    """There is no such thing (404, 410)."""
    IN_DOUBT = "in-doubt"
    """It is not known what happened."""


class InDoubt(Exception):
    """An answer, or the lack of one, that does not say what happened."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer, with the names of its headers in small letters. `body` is None where it has more
    than MOST_BYTES."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = b""


_USUAL = {
    202: Meaning.WORKING,
    404: Meaning.GONE,
    409: Meaning.REFUSED,
    410: Meaning.GONE,
    422: Meaning.REFUSED,
    423: Meaning.LOCKED,
    425: Meaning.WAIT,
    429: Meaning.WAIT,
    503: Meaning.WAIT,
}


def meaning_of(status: int, answers: Mapping[str, str]) -> Meaning:
    """What an answer with that status means, where `answers` says what is not as usual."""
    told = answers.get(str(status))
    if told is not None:
        return Meaning(told)
    if status in _USUAL:
        return _USUAL[status]
    return Meaning.DONE if 200 <= status < 300 else Meaning.IN_DOUBT


def value_of(answer: HttpAnswer) -> Any:
    """The JSON of an answer; None where it has no body. Raises InDoubt."""
    if answer.body is None:
        raise InDoubt(f"its answer {answer.status} has more than {MOST_BYTES} bytes")
    if not answer.body:
        return None
    try:
        return strict_json.check(answer.body)
    except ValueError as error:
        raise InDoubt(f"its answer {answer.status} is no JSON that can be kept: {error}") from None


def told_by(answer: HttpAnswer, hide: Callable[[str], str]) -> tuple[str, str]:
    """The code and the reason of a refusal, in the words of the service where it has some. `hide`
    takes out of them what is secret."""
    code, reason = f"http-{answer.status}", ""
    try:
        told = value_of(answer)
    except InDoubt:
        told = None
    if isinstance(told, Mapping):
        found = [told.get(name) for name in ("code", "error", "type")]
        code = next((fit(hide(it))[:100] for it in found if isinstance(it, str) and it), code)
        texts = [told.get(name) for name in ("detail", "message", "reason", "title")]
        reason = next((it for it in texts if isinstance(it, str) and it), "")
    return code, fit(hide(reason) or f"the service answered {answer.status}")


def pause_of(answer: HttpAnswer, now: datetime, attempt: int) -> float:
    """Seconds until the same is asked again: those of Retry-After, else more at each attempt."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        seconds = _until(text, now, 2.0 ** min(max(attempt, 1) - 1, 6))
    return min(max(seconds, 0.5), LONGEST_WAIT)


def is_nothing(answer: HttpAnswer) -> bool:
    """Whether the answer to a probe, which is DONE or GONE, says that there is nothing. Raises
    InDoubt where it says neither."""
    if meaning_of(answer.status, {}) is Meaning.GONE or answer.status == 204:
        return True
    found = value_of(answer)
    if found is None:
        raise InDoubt(f"its probe was answered {answer.status} with no body, or with null")
    return found in ([], {})


def found_by(answer: HttpAnswer) -> Any:
    """What a probe has found. Raises InDoubt where that is several things."""
    found = value_of(answer)
    if not isinstance(found, list):
        return found
    if len(found) > 1:
        raise InDoubt(f"the probe found {len(found)} things in place of one")
    return found[0]


def _until(text: str, now: datetime, otherwise: float) -> float:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the second for numbers of any length
        return min(otherwise, _LONGEST_GUESS)
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
