"""The port through which the relay sends: one method, and promises about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from outbox.replies import Reply
from outbox.wire.envelope import Envelope

DEFAULT_TIMEOUT = 4.0
"""Seconds that a transport waits for an answer, unless it is told otherwise. A relay waits a bit
longer for the transport (`RelaySettings.delivery_timeout`), and an inbox answers a bit earlier
(`InboxLimits.answer_within`)."""


@dataclass(frozen=True)
class Answered:
    """The destination's answer: one reply for each envelope, in their order."""

    replies: Sequence[Reply]


@dataclass(frozen=True)
class Accepted:
    """A broker's acceptance: it took every message of the batch durably, and delivers them from now
    on. An answer, if one is awaited, comes later, as a message."""


@dataclass(frozen=True)
class Unreachable:
    """No answer, or one that says nothing about the messages (a refused connection, a timeout, a
    5xx, a 401): the destination's trouble, not theirs.

    `sent` tells whether the messages may have been taken: false where nothing was sent, and where
    the destination said that it used nothing of the request. `retry_after` (seconds) is the pause
    that the destination asked for, if any. `gone` is set where it said that it wants nothing any
    more: a relay pauses it then, until an operator resumes it.
    """

    reason: str
    sent: bool
    retry_after: float | None = None
    gone: bool = False


@dataclass(frozen=True)
class Unacceptable:
    """The destination's refusal of the whole request (a 400, 413 or 422): at least one of the
    messages cannot be delivered as it is. Nothing took effect."""

    reason: str


Delivery = Answered | Accepted | Unreachable | Unacceptable


class Transport(Protocol):
    """The transport of envelopes to one destination.

    - `deliver` never raises for what the network or the other side does: that is its answer.
    - It returns within its timeout, which is shorter than the relay's lease margin.
    - It keeps the order of what it is given, of each key at least. It may deliver something twice,
      and says so by `Unreachable(sent=True)` when it does not know.
    - It says `Accepted` only of what survives a crash of the other side, and then sends nothing of
      it again by itself.
    - It delivers what it is given again, also under an id that it has delivered before: a command
      that was locked is asked for anew. Which copies are one message is for an inbox to tell.
    - It is used by one task at a time for one key; different keys may come concurrently.

    `outbox.testing.transport_contract` holds an implementation to them.
    """

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch, and wait for the answer."""

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
