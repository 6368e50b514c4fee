"""What an author of a transport hands in: what it declares, and how a test connects it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from outbox.replies import Reply
from outbox.transports.base import Transport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

Receive = Callable[[Sequence[Envelope], EndedSagas | None], Awaitable[Sequence[Reply]]]
"""The handling end, which the contract scripts: one reply for each envelope, in their order. It may
hang, and it may raise, as an inbox does whose database is away."""

Settled = Callable[[], EndedSagas | None]


class Confirms(Enum):
    """How the other side confirms what it was given."""

    BY_REPLIES = "by replies"
    """It handles the batch, and the replies come back on the same way: `Answered`."""
    BY_ACCEPTING = "by accepting"
    """It takes the batch durably, as a broker does, and delivers it later: `Accepted`."""
    BY_TAKING = "by taking"
    """It takes events, and says of each no more than that: `Answered`, where `NOT_ATTEMPTED` is for
    those that did not fit into this delivery."""


class Order(Enum):
    """Which messages arrive in the order in which they were given."""

    OF_ALL = "of all"
    """All messages of a destination."""
    OF_A_KEY = "of a key"
    """Those of one key, as with partitions. The relay needs no more."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """In what transports may differ. Each field says what this one promises."""

    confirms: Confirms
    order: Order = Order.OF_ALL
    largest: int | None = None
    """The most bytes of `data` that one message may surely have. One with twice as many must be
    `Unacceptable`. None: the transport has no limit of its own."""
    tells_when_nothing_left: bool
    """Whether a destination that is gone gives `sent=False`: the transport knows that nothing has
    left. Without it the relay must take each message for one that may have arrived."""
    carries_commands: bool = True
    """Whether commands travel, with `reply_to` and `undoes`. Without it each is `REJECTED`, and
    nothing of it leaves."""
    carries_statements: bool
    """Whether what `settled` says travels with each batch to the handling end. Without it an inbox
    keeps its rows for longer."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A transport with its other side, up and connected."""

    transport: Transport
    cut: Callable[[], Awaitable[None]]
    """From now on the other side is gone, as a process that was killed: what it confirmed it still
    has when it comes back, connections are closed, new ones are refused."""
    silence: Callable[[], Awaitable[None]]
    """From now on the other side takes what comes, and says nothing to it."""
    restore: Callable[[], Awaitable[None]]
    """After `cut` or `silence`: it is there again, at the same address."""


class Connect(Protocol):
    """Makes a line whose handling end is `receive`.

    The transport gives up after `timeout` seconds, and asks `settled` at each delivery, if it
    carries statements. Where the other side confirms by accepting, a consumer runs as long as the
    line does: it calls `receive` for what was taken, in its order, and takes away what that
    answered. After an exception, and after an answer that says that the message comes again
    (`FAILED`, `TOO_BUSY`, `NOT_ATTEMPTED`), it calls again.
    """

    def __call__(
        self, receive: Receive, *, timeout: float, settled: Settled | None
    ) -> AbstractAsyncContextManager[Line]:
        """A line of its own for each call; at the end of the block nothing of it is left."""
