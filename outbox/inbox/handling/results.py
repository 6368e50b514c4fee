"""The replies that the results of handlers stand for."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from outbox.replies import PENDING, Done, Locked, Ongoing, Outcome, Pending, Refused, Reply
from outbox.wire.codec import encode_value
from outbox.wire.reply_json import readable

_LONGEST = timedelta(days=365_000)
"""The longest time for which an answer is expected: beyond it, there are no dates."""


def reply_of(result: object, tp: Any = Any) -> Reply:
    """The reply that a handler's result stands for, as it is stored and sent. `tp` is the type of
    the values that the command declares. That of Pending has as `value` the seconds it expects, of
    which no date is out of reach. Texts are made readable.

    Raises InvalidMessage where a value is of another type or cannot be put on the wire, TypeError
    where a code or reason is no text, or a pause no finite number of seconds.
    """
    match result:
        case Refused(code, reason):
            return Reply(Outcome.REFUSED, code=_text(code), reason=_text(reason))
        case Locked(by):
            return Reply(Outcome.LOCKED, code="locked", reason=_text(by))
        case Ongoing(retry_after):
            return Reply(Outcome.ONGOING, code="ongoing", retry_after=_seconds(retry_after))
        case Pending(note, expect):
            # The transaction knows the time, and makes a Progress of it.
            seconds = None if expect is None else _expected(expect).total_seconds()
            return Reply(Outcome.ONGOING, value=seconds, code=PENDING, reason=_text(note))
        case Done(value):
            return _done(value, tp)
        case _:
            return _done(result, tp)


def _done(value: object, tp: Any) -> Reply:
    # A handler that returns nothing gives no value, also where one is declared: the reader says so.
    return Reply(Outcome.DONE, value=None if value is None else encode_value(value, tp))


def _expected(expect: timedelta) -> timedelta:
    return max(timedelta(), min(expect, _LONGEST))


def _seconds(pause: object) -> float:
    seconds = pause.total_seconds() if isinstance(pause, timedelta) else pause
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise TypeError(f"retry_after is a number of seconds or a timedelta, and it is {pause!r}")
    return max(0.0, float(seconds))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a refusal's code and reason are texts, and one is {value!r}")
    return readable(value)
