"""The broker in memory behind every address, and what it may do to packets on their way."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from outbox.service import queues, ways
from outbox.transports.brokers.address import BrokerAddress
from outbox.transports.brokers.broker import Packet
from outbox.transports.http import peers
from outbox.wire.envelope import Envelope, from_structured
from tests.support.outbox.memory_broker import MemoryBroker, MemoryServer

ADDRESS = "nats://in-memory:1?partitions=4"


@dataclass
class Mangler:
    """A broker in memory that keeps `taken`, all that it was given, by the queue.

    Each packet goes into its queue `copies` times, those that `loses` says never; the sender hears
    that it is taken after `confirms_after` seconds.
    """

    server: MemoryServer = field(default_factory=MemoryServer)
    taken: dict[str, list[Packet]] = field(default_factory=lambda: defaultdict(list))
    copies: int = 1
    confirms_after: float = 0.0
    loses: Callable[[Envelope], bool] = lambda _: False

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the broker at every address."""

        def broker_at(text: str) -> MemoryBroker:
            BrokerAddress.parse(text)
            return _Client(self)

        for module in (queues, ways, peers):
            monkeypatch.setattr(module, "broker_at", broker_at)

    def envelopes(self, queue: str) -> list[Envelope]:
        """All that was put into that queue, once."""
        return [from_structured(it.body) for it in self.taken[queue]]


class _Client(MemoryBroker):
    def __init__(self, mangler: Mangler) -> None:
        super().__init__(mangler.server)
        self._mangler = mangler

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        mangler = self._mangler
        mangler.taken[queue] += packets
        left = [it for it in packets if not mangler.loses(from_structured(it.body))]
        for _ in range(mangler.copies):
            await super().publish(queue, left)
        await asyncio.sleep(mangler.confirms_after)  # the answer of the broker is on its way
