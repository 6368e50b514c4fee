"""The port of topics: events go to one, and its messages are read for a group."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from outbox.transports.brokers.broker import Packet, Reading
from outbox.transports.brokers.topics.topic import Topic

CE = "ce-"
"""What the names of headers begin with that are attributes of a CloudEvent, in a Packet."""


@dataclass(frozen=True, slots=True)
class EventPacket(Packet):
    """An event on its way to a topic, with its type."""

    type: str = ""


class Start(StrEnum):
    """Where a group begins that has no position yet."""

    FIRST = "first"
    """At the oldest message that the broker still has."""
    NEW = "new"
    """At the first message that comes from then on."""


class TakenInPart(Exception):
    """The broker has taken the packets at these places of the batch, and the rest can go nowhere
    for now, for that reason."""

    def __init__(self, reason: str, taken: Collection[int]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.taken = frozenset(taken)


class TopicClient(Protocol):
    """A client of the broker of some topics. It makes no topic, and deletes nothing of one.

    In its packets the attributes of a CloudEvent are headers that begin with `ce-`, by any name
    that the broker has for them, and as the texts that they are; the media type is `content-type`.
    """

    async def require(self, topic: Topic) -> None:
        """Return where the broker has the topic, so that events can be sent to it. Raises
        BrokerAway, and BrokerRefused where it has none."""

    async def publish_to(self, topic: Topic, packets: Sequence[EventPacket]) -> None:
        """Put the packets into the topic, those of a key in their order; return when the broker has
        all of them. Raises BrokerAway, PacketRefused, and BrokerRefused where there is no such
        topic, or nothing that keeps what it gets; TakenInPart where that is so for some."""

    async def follow(self, topic: Topic, group: str, start: Start) -> Reading:
        """Read the topic, from the first message that the group has not done, in the place of the
        group's reader before. Raises BrokerAway and BrokerRefused."""

    async def behind(self, topic: Topic, group: str) -> int:
        """How many messages of the topic the group has not done. Raises as `follow` does."""

    async def aclose(self) -> None:
        """Close the connections. Calling it twice is fine; afterwards all is BrokerAway."""
