"""Replies of a participant to commands.

A handler returns the command's own value, or one of `Done`, `Refused`, `Locked`, `Ongoing`,
`Pending`. On the wire and in the inbox every answer, also those that the library itself gives, is a
`Reply`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[R]):
    """The command took effect. `value` is the value that the command promises."""

    value: R


@dataclass(frozen=True)
class Refused:
    """A business "no": nothing changed, and asking again will not help by itself.

    `code` is a short stable word for programs, `reason` a sentence for people.
    """

    code: str
    reason: str


@dataclass(frozen=True)
class Locked:
    """Another operation holds the entity. `by` names it. Nothing changed; ask again later."""

    by: str


@dataclass(frozen=True)
class Ongoing:
    """Nothing is decided: ask again in `retry_after` (seconds or a timedelta). What the handler
    wrote is rolled back, and the next ask calls it anew; `Pending` keeps it."""

    retry_after: float | timedelta = 1.0


@dataclass(frozen=True)
class Pending:
    """The answer comes later, by `Service.complete`. What the handler wrote is kept, and it is not
    called again for this command.

    `note` says to people what is waited for. `expect` is how long that should take; it only
    informs, and ends nothing.
    """

    note: str = ""
    expect: timedelta | None = None


PENDING = "pending"
"""The code of an ONGOING answer to a command that has begun, and whose answer comes later."""

DEAD_LETTER = "dead-letter"
"""The code of a REJECTED answer to a command that a consumer behind a broker has given up, and
keeps: no worker tries it any more. The orchestrator takes it as it takes the burial of a command by
its own relay."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a command whose answer comes later. All times are UTC.

    `expected_at` is what its handler expected, and may have passed. Of a call to the outside,
    `attempt` counts from 1, `holder` is the process that makes it, and `until` when that is over;
    `attempt` is 0 where there is no call.
    """

    since: datetime
    expected_at: datetime | None = None
    attempt: int = 0
    holder: str | None = None
    until: datetime | None = None


class Outcome(StrEnum):
    """How a delivery ended. Each is definite, or says who should try again."""

    DONE = "done"
    """It took effect, now or in an earlier delivery."""
    REFUSED = "refused"
    """A business "no"; nothing changed in any attempt."""
    ALREADY_UNDONE = "already-undone"
    """An action whose undo came first, or which was undone; it has no effect."""
    NOTHING_TO_UNDO = "nothing-to-undo"
    """An undo whose action has no effect: it never ran, was refused, or was undone before."""
    EXPIRED = "expired"
    """It came after its expiry, had not run, and now never will."""
    TOO_OLD = "too-old"
    """Older than what the inbox remembers: whether it ran cannot be told, so it does not run."""
    UNKNOWN = "unknown"
    """An undo of an action older than what the inbox remembers: an operator must look."""
    LOCKED = "locked"
    """Another operation holds the entity; nothing changed; ask again."""
    ONGOING = "ongoing"
    """Not decided yet; ask again."""
    TOO_BUSY = "too-busy"
    """The receiver had no room or no time; nothing changed; ask again."""
    NOT_ATTEMPTED = "not-attempted"
    """An earlier message of the same key failed in this batch; send it again after that one."""
    FAILED = "failed"
    """The handler raised; nothing changed; try again with backoff."""
    REJECTED = "rejected"
    """The receiver cannot take it: unknown type, wrong data, or an id used for another message."""

    @property
    def is_final(self) -> bool:
        """Whether it is definite: asking again under the same id cannot change it."""
        return self in _FINAL


_FINAL = frozenset(
    {
        Outcome.DONE,
        Outcome.REFUSED,
        Outcome.ALREADY_UNDONE,
        Outcome.NOTHING_TO_UNDO,
        Outcome.EXPIRED,
        Outcome.TOO_OLD,
        Outcome.UNKNOWN,
    }
)


@dataclass(frozen=True)
class Reply:
    """One answer, as it is stored and sent.

    `value` is JSON-ready: with DONE what the command promises, with the code PENDING a `Progress`.
    `code` and `reason` explain every other outcome than DONE. `retry_after` is in seconds.
    `after_pending` is set with REFUSED where the handler's writes were committed before.
    """

    outcome: Outcome
    value: Any = None
    code: str | None = None
    reason: str | None = None
    retry_after: float | None = None
    after_pending: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether the answer comes later. Without `retry_after` the receiver keeps the command, and
        tells the answer by itself."""
        return self.outcome is Outcome.ONGOING and self.code == PENDING

    @property
    def size(self) -> int:
        """The rough number of bytes of its value as JSON, without a look at each number."""
        size, left = 0, [self.value]
        while left:
            match left.pop():
                case str() as text:
                    size += len(text) + 2
                case dict() as members:
                    size += sum(map(len, members)) + 4 * len(members)
                    left += members.values()
                case list() as items:
                    size += len(items)
                    left += items
                case None:
                    pass
                case _:
                    size += 8
        return size
