"""Publishing with confirms: what became of each packet is known before anything is said of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiormq.channel import Channel
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from outbox.transports.brokers.amqp.troubles import words
from outbox.transports.brokers.broker import BrokerAway, Packet, PacketRefused

PERSISTENT = 2
_TOO_LARGE = re.compile(r"larger than configured max size (\d+)")


@dataclass
class Fates:
    """What became of packets: how many the server took, sent back, and refused to keep; and why
    others have no answer."""

    taken: int = 0
    returned: int = 0
    refused: int = 0
    unknown: list[BaseException | None] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether all were taken."""
        return not (self.returned or self.refused or self.unknown)

    @classmethod
    def of(cls, several: Iterable[Fates]) -> Fates:
        """The sum."""
        total = cls()
        for it in several:
            total.taken += it.taken
            total.returned += it.returned
            total.refused += it.refused
            total.unknown += it.unknown
        return total

    def require_good(self, packets: Sequence[Packet]) -> None:
        """Raises BrokerAway or PacketRefused unless the server took all of these."""
        if self.is_good:
            return
        for error in self.unknown:
            limit = _TOO_LARGE.search(words(error))
            if limit is not None and any(len(it.body) > int(limit[1]) for it in packets):
                raise PacketRefused(words(error))
        if self.unknown:
            raise BrokerAway(words(self.unknown[0]), sent=True)
        if self.refused:
            raise BrokerAway(
                f"RabbitMQ did not keep {self.refused} of {len(packets)} packets: the queue is at "
                "a limit that a policy sets, or most of its servers are away",
                sent=True,
            )
        raise BrokerAway(
            f"RabbitMQ had no queue for {self.returned} of {len(packets)} packets, and sent them "
            "back; the queue is declared again",
            sent=self.taken > 0,
        )

    def count(self, publishing: asyncio.Task[None]) -> None:
        """Add what became of that one."""
        if publishing.cancelled():
            self.unknown.append(None)
            return
        match publishing.exception():
            case None:
                self.taken += 1
            case PublishError():
                self.returned += 1
            case DeliveryError():
                self.refused += 1
            case error:
                self.unknown.append(error)


Publish = Callable[[Channel, str, Packet], Coroutine[Any, Any, None]]
"""Publishes a packet, mandatory, at an exchange; returns when the server has it."""


async def publish(channel: Channel, exchange: str, packet: Packet) -> None:
    """As a queue of Sagabox has it. Raises what the library raises."""
    await channel.basic_publish(
        packet.body,
        exchange=exchange,
        routing_key=str(packet.partition),
        mandatory=True,
        wait=False,
        properties=Basic.Properties(
            # For people who look at it: the reader takes it from the headers.
            content_type=packet.headers.get("content-type"),
            headers=dict(packet.headers),
            delivery_mode=PERSISTENT,
        ),
    )


async def send_in_order(
    channel: Channel, exchange: str, packets: Sequence[Packet], publish: Publish = publish
) -> Fates:
    """Send the packets of one partition: all at once, as long as no key comes again. What follows
    a packet of its key is sent when the server has that one; so none overtakes one that it did not
    take."""
    fates = Fates()
    for run in _runs(packets):
        publishing = [asyncio.create_task(publish(channel, exchange, it)) for it in run]
        try:
            await asyncio.wait(publishing)
        finally:
            for task in publishing:
                task.cancel()
            await asyncio.gather(*publishing, return_exceptions=True)
        for task in publishing:
            fates.count(task)
        if not fates.is_good:
            break
    return fates


def _runs(packets: Sequence[Packet]) -> Iterator[list[Packet]]:
    run: list[Packet] = []
    keys: set[str] = set()
    for packet in packets:
        if packet.key in keys:
            yield run
            run, keys = [], set()
        run.append(packet)
        keys.add(packet.key)
    yield run
