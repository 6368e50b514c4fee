"""Identifiers: UUIDv7 strings (RFC 9562), which sort by the millisecond they were made in.

An id is always the canonical lower-case string of 36 characters.
"""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from outbox.clock import Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)
_COUNTER_LIMIT = 1 << 42
# Ten times as fast as uuid.UUID, and called several times for each message that arrives.
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def compose(milliseconds: int, tail: int) -> str:
    """The UUIDv7 with this Unix time in milliseconds and these 74 free bits."""
    high, low = (tail >> 62) & 0xFFF, tail & ((1 << 62) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def time_of(identifier: str) -> datetime:
    """The time when the id was made, to the millisecond; at the latest the last day of the year
    9999, since an id reaches further than a datetime. Raises ValueError where it is no UUIDv7."""
    if not is_id(identifier) and uuid.UUID(identifier).version != 7:
        raise ValueError(f"{identifier} is not a UUIDv7")
    return _EPOCH + min(timedelta(milliseconds=_milliseconds_of(identifier)), _LAST_DAY - _EPOCH)


def first_at(moment: datetime) -> str:
    """The smallest id of that millisecond: ids of earlier ones sort before it.

    For a moment before 1970, which has no ids, the smallest id of all.
    """
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    return compose(max(0, milliseconds), 0)


def derive(parent: str, *parts: str) -> str:
    """An id that follows from `parent` and `parts` alone, and carries the time of `parent`.

    The same arguments give the same id on every machine, so a command that is sent again after a
    crash is recognised as the same command.
    """
    # Each part with its length, so that ("a", "b") and ("ab",) always differ.
    framed = "".join(f"{len(part)}:{part}" for part in (parent, *parts))
    digest = hashlib.sha256(framed.encode()).digest()
    return compose(_milliseconds_of(parent), int.from_bytes(digest[:10], "big"))


def _milliseconds_of(identifier: str) -> int:
    if is_id(identifier):
        return int(identifier[:8] + identifier[9:13], 16)
    return uuid.UUID(identifier).int >> 80


def is_id(text: object) -> bool:
    """Whether it is a UUIDv7 in its canonical form, as text."""
    return isinstance(text, str) and _CANONICAL.fullmatch(text) is not None


class Ids:
    """A maker of ids that grow strictly within one process, even when the clock stands or goes
    back.

    Calling the instance gives the next id. `entropy(n)` returns n random bytes. Thread-safe.
    """

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._entropy = entropy
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def __call__(self) -> str:
        random = int.from_bytes(self._entropy(9), "big")
        now = (self._clock.now() - _EPOCH) // timedelta(milliseconds=1)
        with self._lock:
            if now > self._milliseconds:
                self._milliseconds = now
                # The top bit stays free, so that a burst within the millisecond cannot overflow.
                self._counter = random >> 32 & (_COUNTER_LIMIT // 2 - 1)
            else:
                self._counter += 1
                if self._counter >= _COUNTER_LIMIT:
                    self._milliseconds, self._counter = self._milliseconds + 1, 0
            return compose(self._milliseconds, self._counter << 32 | random & 0xFFFFFFFF)
