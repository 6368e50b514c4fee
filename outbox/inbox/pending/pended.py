"""What is kept of a command whose answer comes later. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from outbox.replies import PENDING, Outcome, Progress, Reply
from outbox.wire import reply_json

_ASKED_AGAIN = 2.0
"""Seconds after which a relay asks again, which no message tells of the end of a call."""


@dataclass(frozen=True, slots=True)
class Pended:
    """A row of `inbox_pending`, as it was at `read_at`, by the clock of the database."""

    id: str
    type: str
    source: str
    reply_to: str | None
    saga: str | None
    key: str
    trace: str | None
    since: datetime
    read_at: datetime
    note: str = ""
    expected_at: datetime | None = None
    undoes: tuple[str, ...] = ()
    holder: str | None = None
    attempt: int = 0
    until: datetime | None = None
    is_in_doubt: bool = False
    last_error: str | None = None
    before: str | None = None
    late_reply: Reply | None = None

    @property
    def is_call(self) -> bool:
        """Whether it waits for a call to the outside."""
        return self.attempt > 0

    @property
    def is_live(self) -> bool:
        """Whether its call goes on, as far as its time tells."""
        return self.until is not None and self.until > self.read_at

    @property
    def is_over(self) -> bool:
        """Whether it has a call, and that does not go on."""
        return self.is_call and not self.is_live

    @property
    def rest(self) -> timedelta:
        """How long its call may go on."""
        return max(timedelta(), (self.until or self.read_at) - self.read_at)

    def reply(self) -> Reply:
        """The answer to a copy of the command."""
        return Reply(
            Outcome.ONGOING,
            value=reply_json.progress_json(self.progress),
            code=PENDING,
            reason=self.last_error or self.note or "its answer comes later",
            retry_after=self._ask_again_after,
        )

    @property
    def _ask_again_after(self) -> float | None:
        if not self.is_call:
            return None
        rest = self.rest.total_seconds()
        return rest if self.reply_to is not None else min(rest, _ASKED_AGAIN)

    @property
    def progress(self) -> Progress:
        """Its progress, as its sender is told."""
        return Progress(
            since=self.since,
            expected_at=self.expected_at,
            attempt=self.attempt,
            holder=self.holder,
            until=self.until,
        )
