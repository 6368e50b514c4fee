"""The door of a service: which batches come in, by any transport, and what senders are told.

Every receiver uses it, so that limits, signatures and answers are the same on each transport.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy.exc import DBAPIError

from outbox.clock import Clock
from outbox.database.troubles import Trouble, trouble_in_statement
from outbox.errors import MalformedEnvelope, OutboxError, UntrustedRequest
from outbox.ids import Ids
from outbox.inbox.inbox import Inbox
from outbox.replies import Reply
from outbox.transports.http.problems import (
    ANOTHER_DATABASE,
    TOO_BUSY,
    HttpProblem,
    from_outbox_error,
    unexpected,
)
from outbox.transports.http.signing import MEANT_HEADER, TO_HEADER, Keyring, skew_of, verify
from outbox.wire import attributes
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
MAX_MESSAGES = 500
CONCURRENCY = 8

FAR_OFF = 30.0
"""Seconds by which a sender's clock may differ before the log says so."""
_MOST_NAMED = 100
_READERS_PER_WORKER = 4
_RETRY_AFTER = 1.0


class Room:
    """Room for `places` requests at once; a request that finds none does not wait."""

    def __init__(self, places: int) -> None:
        self._free = places

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Raises HttpProblem (503) where no place is free."""
        if self._free <= 0:
            raise HttpProblem(
                503,
                TOO_BUSY,
                "The service works on as many requests as it can; nothing of this one was used.",
                next_step="Send the same request again after the time in Retry-After.",
                retry_after=_RETRY_AFTER,
                headers={"connection": "close"},
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Door:
    """The door to `inbox`. `concurrency` batches are worked on at once, and four times as many are
    read. `ids` makes the ids of the replies. `skewed` is told by how many seconds each sender's
    clock is ahead. `database` gives the id of the inbox's database: messages that are meant for
    another one are refused."""

    def __init__(
        self,
        inbox: Inbox,
        *,
        keys: Keyring,
        clock: Clock,
        max_body: int = MAX_BODY_BYTES,
        max_messages: int = MAX_MESSAGES,
        concurrency: int = CONCURRENCY,
        ids: Callable[[], str] | None = None,
        skewed: Callable[[str, float], None] = lambda sender, seconds: None,
        database: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._inbox = inbox
        self._keys = keys
        self.clock = clock
        self.max_body = max_body
        self._max_messages = max_messages
        self.ids = ids or Ids(clock, os.urandom)
        self._skewed = skewed
        self.database = database
        self._far_off: set[str] = set()
        self.reading = Room(concurrency * _READERS_PER_WORKER)
        self.working = Room(concurrency)

    @property
    def consumer(self) -> str:
        """The name of the service behind it."""
        return self._inbox.consumer

    def require_meant(self, headers: Mapping[str, str]) -> None:
        """Raises UntrustedRequest where the request names another service."""
        to = headers.get(TO_HEADER)
        if to is not None and to != attributes.quoted(self.consumer):
            raise UntrustedRequest(
                f"the request was signed for the service {to[:100]!r}, and this is {self.consumer}",
                next_step="correct the address of that service at its sender, or its name",
            )

    def require_signed(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> datetime:
        """The time at which the signature was checked. Raises UntrustedRequest; and HttpProblem
        where the messages are meant for another database."""
        now = self.clock.now()
        verify(self._keys, method=method, target=target, headers=headers, body=body, now=now)
        meant, own = headers.get(MEANT_HEADER), self.database()
        if meant is not None and own is not None and meant != own:
            raise HttpProblem(
                421,
                ANOTHER_DATABASE,
                f"The messages are meant for the database {meant[:50]!r}, and this service works "
                f"on {own!r}; none of them was used.",
                next_step="Take this address out of the name of that service; or, if its database "
                "was replaced, restart the services that send there.",
            )
        return now

    def admit(
        self, envelopes: Sequence[Envelope], headers: Mapping[str, str], now: datetime
    ) -> EndedSagas | None:
        """What the request says of ended sagas, if its messages are not too many. Raises
        HttpProblem."""
        if len(envelopes) > self._max_messages:
            raise HttpProblem(
                413,
                "too-many-messages",
                f"The batch has {len(envelopes)} messages, and {self._max_messages} are allowed; "
                "none of them was used.",
                next_step="Send smaller batches.",
            )
        for sender in {envelope.source for envelope in envelopes}:
            self._note_skew(sender, skew_of(headers, now))
        return _statement(headers)

    async def take(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None
    ) -> Sequence[Reply]:
        """The replies. Raises HttpProblem where the database is in trouble."""
        try:
            return await self._inbox.receive(envelopes, settled)
        except Exception as error:
            raise _from_database(error) from error

    def too_large(self) -> HttpProblem:
        """The answer to a body above the limit."""
        return HttpProblem(
            413,
            "body-too-large",
            f"The body is longer than {self.max_body} bytes; nothing of it was used.",
            next_step="Send smaller batches.",
            # The rest of the body must not be taken for the next request.
            headers={"connection": "close"},
        )

    def _note_skew(self, sender: str, seconds: float) -> None:
        self._skewed(sender, seconds)
        if abs(seconds) < FAR_OFF:
            self._far_off.discard(sender)
        elif sender not in self._far_off and len(self._far_off) < _MOST_NAMED:
            self._far_off.add(sender)
            log.warning(
                "the clock of %s is %.0f s %s the one here; beyond %.0f s its messages are refused",
                sender,
                abs(seconds),
                "ahead of" if seconds > 0 else "behind",
                self._keys.window,
            )


def problem_of(error: OutboxError) -> HttpProblem:
    """The answer to an error of the library; the log has what is no fault of the sender's."""
    problem = from_outbox_error(error)
    if not isinstance(error, MalformedEnvelope | UntrustedRequest):
        log.error("a request with messages was not answered", exc_info=error)
    return problem


def _statement(headers: Mapping[str, str]) -> EndedSagas | None:
    try:
        return EndedSagas.from_headers(headers)
    except MalformedEnvelope as error:
        # Without it the inbox only remembers for longer; no message may be refused or lost for it.
        log.warning("a statement about sagas is left out: %s", error)
        return None


def _from_database(error: Exception) -> HttpProblem:
    """The problem for the sender where the inbox could not finish; the log has the cause."""
    # The inbox lets such errors through only where the database itself is in trouble.
    in_trouble = trouble_in_statement(error) is not Trouble.OWN
    if in_trouble or isinstance(error, DBAPIError):
        log.warning("the inbox cannot work with its database", exc_info=error)
        return HttpProblem(
            503,
            "database-unavailable",
            "The service's database is away, full, read only or without its tables, or did not "
            "confirm the commit.",
            next_step="Send the same messages again under the same ids: what took effect is "
            "recognised, and answered as it was. The service's log has the cause.",
            retry_after=_RETRY_AFTER,
        )
    log.error("a request with messages failed", exc_info=error)
    return unexpected()
