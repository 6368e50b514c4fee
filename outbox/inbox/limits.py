"""The limits of an inbox: how long its handlers and transactions take, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from outbox.inbox.retention import MINIMUM_RETENTION
from outbox.wire.codec import MAX_MESSAGE_BYTES

HANDLER_SECONDS = 30.0


@dataclass(frozen=True)
class InboxLimits:
    """The limits of an inbox. Times are in seconds.

    A handler may take `handler`, where it was registered without a `timeout` of its own: 30 s, and
    on SQLite half a second less than the busy timeout, since the other writers wait meanwhile. The
    messages of a batch share transactions, each of which calls no further handler after
    `transaction`. A wait for a lock takes at most `lock`, on PostgreSQL.

    `answer_within` must be shorter than the sender's patience, which is 4 s for the HTTP transport:
    what is in hand then goes on and is answered ONGOING; what was not begun is NOT_ATTEMPTED.

    Messages are remembered for `retention`, and commands of a saga until that has ended, too. A
    purge deletes up to `purge_rows` in each of `purge_transactions`.
    """

    handler: float | None = None
    transaction: float = 1.0
    lock: float = 0.5
    answer_within: float = 3.5
    message_bytes: int = MAX_MESSAGE_BYTES
    retention: timedelta = timedelta(days=30)
    purge_rows: int = 1000
    purge_transactions: int = 100

    def __post_init__(self) -> None:
        if self.retention < MINIMUM_RETENTION:
            raise ValueError(f"retention is {self.retention}; the least is {MINIMUM_RETENTION}")
        for name in ("handler", "transaction", "lock"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ValueError(f"{name} is {seconds}, and must be seconds above 0")
        if self.answer_within <= self.transaction:
            raise ValueError(
                f"answer_within is {self.answer_within} s, which leaves no time for a second "
                f"transaction after one of {self.transaction} s"
            )
