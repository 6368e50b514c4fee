"""The terms between an inbox, its transactions and the ground that they run on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy.orm import Session

from outbox.adding.causes import Cause
from outbox.clock import Clock
from outbox.database.troubles import Trouble
from outbox.inbox.handler_times import HandlerTimes
from outbox.inbox.handlers import Context, Handler
from outbox.inbox.limits import InboxLimits
from outbox.inbox.rows import Arrival
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from outbox.safe_text import described
from outbox.tracing import fields_of
from outbox.wire.envelope import Envelope

log = logging.getLogger("outbox.inbox")

T = TypeVar("T")

Told = Callable[[Session, Envelope, Reply], None]
"""A callback that gets an answer in the transaction that keeps it. It may add messages."""

Call = Callable[[Handler, Session, Sequence[Message], Sequence[Context], float], list[Reply]]
"""Calls a handler, for so many seconds. Raises HandlerLate beyond them, and what it raises."""


class Worked(Protocol):
    """A transaction of an inbox. A runner gives it a session, calls handlers, and commits."""

    @property
    def replies(self) -> list[Reply | None]:
        """The answers; None for a message that was left out."""

    def work(self, session: Session, call: Call) -> None:
        """Everything up to the commit. Raises RolledBack, or what is the database's own trouble."""

    def judged(self, error: Exception) -> Exception:
        """The exception to raise for an error: RolledBack, or the error itself where the database
        is away."""


class Runner(Protocol):
    """The ground on which transactions run: the event loop, or threads."""

    async def handle(self, work: Worked, *, connect_within: float) -> list[Reply | None]:
        """The answers, committed; None for a message that was left out.

        Raises RolledBack; TimeoutError where no connection came within so many seconds; and the
        database's own error where it is away or full, or where the outcome of the commit is
        unknown: a repetition then waits at the insert of the ids until it is known.
        """

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call `function(session, *args)` in a transaction of its own, and commit it."""


class RolledBack(Exception):
    """The transaction was rolled back; the caller tries or answers the messages in another way.

    `reply` is an answer to all that is `in_hand`, which cannot be stored. Otherwise `error` is what
    happened, and `trouble` what it says about trying again. `in_hand` are the messages whose
    handler was running.
    """

    def __init__(
        self,
        trouble: Trouble,
        error: BaseException,
        in_hand: Sequence[Arrival],
        reply: Reply | None = None,
    ) -> None:
        super().__init__(trouble, error)
        self.trouble = trouble
        self.error = error
        self.in_hand = in_hand
        self.reply = reply


class HandlerLate(TimeoutError):
    """A handler took longer than it may."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"the handler {name} was not done within {seconds:g} s; a longer timeout=... can be "
            "given where it is registered"
        )


@dataclass
class Terms:
    """The terms of a transaction, which its inbox sets.

    `together` is for the messages of a batch: each must be DONE, or be answered without its
    handler. A message of a type in `fragile`, and a single one, may be refused, too: its handler
    runs within a savepoint. `holder` is the name under which this process makes calls to the
    outside. `may_be_lost` tells whether a restore may have lost rows of such messages.
    """

    together: bool
    limits: InboxLimits
    times: HandlerTimes
    clock: Clock
    attempt_of: Callable[[str], int]
    holder: Callable[[], str]
    may_be_lost: Callable[[Session, Sequence[Arrival]], bool]
    fragile: Collection[str] = ()
    told: Told | None = None


def cause_of(arrival: Arrival) -> Cause:
    """The message as the cause of what its handler adds."""
    envelope = arrival.envelope
    return Cause(envelope.id, envelope.correlation, envelope.trace)


def failure(error: BaseException) -> Reply:
    """The answer to a message whose handler raised this."""
    # A database error's own text would quote the statement with all its values.
    reason = described(getattr(error, "orig", None) or error)
    return Reply(Outcome.FAILED, code="failed", reason=reason)


def tell_failure(consumer: str, arrival: Arrival, error: BaseException) -> None:
    """Log the error of a handler."""
    envelope = arrival.envelope
    log.error(
        "%s failed at %s %s",
        consumer,
        envelope.type,
        envelope.id,
        exc_info=error,
        extra=fields_of(envelope),
    )
