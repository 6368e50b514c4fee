"""The limits of an inbox: how long its transactions take, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from outbox.inbox.retention import MINIMUM_RETENTION
from outbox.wire.codec import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a transaction, in seconds: for each wait for a lock, for each statement, and for
    all until its commit. The first two are for PostgreSQL; a SQLite engine has its busy timeout."""

    lock: float
    statement: float
    total: float


@dataclass(frozen=True)
class InboxLimits:
    """The limits of an inbox. A whole batch is tried at the pace `together`, so that one slow
    handler does not hold up the other keys for long; then each message `alone`.

    `answer_within` (seconds) must be shorter than the sender's patience, which is 4 s for the HTTP
    transport: a message that cannot be begun in time is answered TOO_BUSY. Messages are remembered
    for `retention`, and commands of a saga until that has ended, too. A purge deletes up to
    `purge_rows` in each of `purge_transactions`.
    """

    together: Pace = field(default_factory=lambda: Pace(lock=0.3, statement=0.75, total=1.0))
    alone: Pace = field(default_factory=lambda: Pace(lock=0.5, statement=1.0, total=1.5))
    answer_within: float = 3.5
    message_bytes: int = MAX_MESSAGE_BYTES
    retention: timedelta = timedelta(days=30)
    purge_rows: int = 1000
    purge_transactions: int = 100

    def __post_init__(self) -> None:
        if self.retention < MINIMUM_RETENTION:
            raise ValueError(f"retention is {self.retention}; the least is {MINIMUM_RETENTION}")
        if self.answer_within <= self.together.total + self.alone.total:
            raise ValueError(
                f"answer_within is {self.answer_within} s, which leaves no time for messages alone "
                "after a batch that took too long together"
            )
