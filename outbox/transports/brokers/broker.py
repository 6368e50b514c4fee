"""The port of a broker: packets go into the partitions of a queue, and come out in their order.

One adapter implements it for each kind of broker. What stands above it, signatures, order of a key,
retries and the inbox, is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from outbox.errors import OutboxError

PREFIX = "sagabox"
"""What the names of queues begin with at a broker, unless the address says otherwise."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What travels: a body with its headers, for one partition (from 0) of a queue. The names of
    the headers are in lower case, names and values ASCII. `key` is the order key of what is in it,
    for brokers that show or use it."""

    partition: int
    headers: Mapping[str, str]
    body: bytes
    key: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """A packet that came out. `position` is its place in the partition, in the broker's words."""

    packet: Packet
    position: str


@dataclass(frozen=True, kw_only=True)
class BrokerFeatures:
    """What a broker keeps of what it is given, as its adapter asks for it.

    `durable` says when it answers that it has a packet. `dedupes` says whether it takes away what
    is sent twice: no adapter asks for that, since a locked command is sent again under its id.
    `largest` is the most bytes of a body, None where there is no limit to name. `delays` says
    whether it can keep a packet back until a time; the outbox does that itself.
    """

    durable: str
    dedupes: bool = False
    largest: int | None = None
    delays: bool = False
    tells_when_nothing_left: bool = field(default=True)
    """Whether a broker that is gone is always told from one that may have the packets."""


class BrokerAway(Exception):
    """The broker gave no answer, or is not there. `sent` tells whether it may have the packets."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


UNREADABLE = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What the libraries, and the adapters, raise over an answer that no such broker gives."""


def unreadable(name: str, error: BaseException, *, sent: bool) -> BrokerAway:
    """What is told of a broker that gave such an answer."""
    what = f"{type(error).__name__}: {str(error)[:200]}"
    return BrokerAway(f"{name} gives an answer that cannot be read: {what}", sent=sent)


@contextmanager
def reading_answers(name: str, *, sent: bool) -> Iterator[None]:
    """Answers are read within. Raises BrokerAway where one cannot be."""
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(name, error, sent=sent) from error


class PacketRefused(Exception):
    """The broker refuses at least one of the packets as it is: too large, for instance. It has none
    of those that follow it."""


class ReadingLost(Exception):
    """Another reader has taken the partition over, or the broker has taken it away."""


class BrokerRefused(OutboxError):
    """The broker is there, and must not or cannot be used so: wrong credentials, a missing right, a
    queue of another shape, a setting under which it would lose what it took."""


class Reading(Protocol):
    """One partition, from its first packet that is not done."""

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """Up to `most` packets that follow the last ones, in their order and without a gap; none
        after `wait` seconds without any. A packet that is not done comes once in a reading.

        Raises BrokerAway, after which the reading is to be closed; and ReadingLost.
        """

    async def done(self, count: int) -> None:
        """The first `count` of the packets that were given and are not done: the broker forgets
        them. Raises BrokerAway and ReadingLost, after which some may come once more."""

    async def aclose(self) -> None:
        """Leave the partition; what is not done stays. Never raises; calling it twice is fine."""


class Broker(Protocol):
    """A broker at one address, with the names of its queues. Connections are made when they are
    needed, and again after they broke; no buffer sends anything later by itself."""

    @property
    def features(self) -> BrokerFeatures: ...
    @property
    def partitions(self) -> int:
        """The number of partitions of each queue."""

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Put the packets into the queue, those of a partition in their order; return when the
        broker has all of them durably. It may be called several times at once, and cancelled.

        Raises BrokerAway, PacketRefused and BrokerRefused.
        """

    async def open(self, queue: str, partition: int) -> Reading:
        """Read a partition, in the place of the one that reads it now. That one gets ReadingLost;
        or the broker lets the new one wait until it has left.

        Raises BrokerAway and BrokerRefused.
        """

    async def waiting(self, queue: str) -> int:
        """The number of packets of the queue that are not done. Raises as `open` does."""

    async def aclose(self) -> None:
        """Close the connections. Calling it twice is fine; afterwards all is BrokerAway."""
