"""A broker in memory, which can be cut, silenced, and told to lose, repeat or split."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerFeatures,
    Packet,
    PacketRefused,
    ReadingLost,
    Taken,
)

LARGEST = 1024 * 1024
Place = tuple[str, int]


@dataclass
class MemoryServer:
    """What a broker has on its disk, and whether it is there. It outlives its clients."""

    packets: dict[Place, list[tuple[int, Packet]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    readers: dict[Place, int] = field(default_factory=lambda: defaultdict(int))
    count: int = 0
    is_gone: bool = False
    is_silent: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def cut(self) -> None:
        """It is gone, and so are its readers."""
        self.is_gone = True
        for place in self.readers:
            self.readers[place] += 1
        await self.tell()

    async def silence(self) -> None:
        """It takes what comes, and says nothing."""
        self.is_silent = True

    async def restore(self) -> None:
        """It is there again, with all that it had."""
        self.is_gone = self.is_silent = False
        await self.tell()

    async def tell(self) -> None:
        """Wake those that wait."""
        async with self.changed:
            self.changed.notify_all()

    async def ask(self, *, sent: bool = True) -> None:
        """One request. Raises BrokerAway where it is gone; hangs where it is silent."""
        await asyncio.sleep(0)
        if self.is_gone:
            raise BrokerAway("the broker is gone", sent=False)
        if self.is_silent:
            async with self.changed:
                await self.changed.wait_for(lambda: not self.is_silent)
            raise BrokerAway("the broker was silent", sent=sent)


class MemoryBroker:
    """A client of that server."""

    def __init__(self, server: MemoryServer, partitions: int = 4) -> None:
        self.server = server
        self.partitions = partitions
        self.features = BrokerFeatures(durable="in the memory of the test", largest=LARGEST)
        self._closed = False

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """Keep them."""
        if self._closed:
            raise BrokerAway("the broker is closed", sent=False)
        await self.server.ask()
        if any(len(it.body) > LARGEST for it in packets):
            raise PacketRefused("too large")
        for packet in packets:
            self.server.count += 1
            self.server.packets[queue, packet.partition].append((self.server.count, packet))
        await self.server.tell()

    async def open(self, queue: str, partition: int) -> MemoryReading:
        """Read that partition."""
        if self._closed:
            raise BrokerAway("the broker is closed", sent=False)
        await self.server.ask()
        self.server.readers[queue, partition] += 1
        await self.server.tell()
        return MemoryReading(self.server, (queue, partition))

    async def waiting(self, queue: str) -> int:
        """How many are there."""
        await self.server.ask()
        return sum(len(it) for (name, _), it in self.server.packets.items() if name == queue)

    async def aclose(self) -> None:
        """Give and take nothing more."""
        self._closed = True


class MemoryReading:
    """The reading of one partition."""

    def __init__(self, server: MemoryServer, place: Place) -> None:
        self._server = server
        self._place = place
        self._number = server.readers[place]
        self._position = 0

    def _require(self) -> None:
        if self._server.is_gone:
            raise BrokerAway("the broker is gone", sent=False)
        if self._server.readers[self._place] != self._number:
            raise ReadingLost

    def _there(self, most: int) -> list[Taken]:
        packets = self._server.packets[self._place]
        after = [(n, it) for n, it in packets if n > self._position]
        return [Taken(it, str(n)) for n, it in after[:most]]

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """What follows."""
        try:
            async with asyncio.timeout(wait), self._server.changed:
                while True:
                    self._require()
                    if found := self._there(most):
                        self._position = int(found[-1].position)
                        return found
                    await self._server.changed.wait()
        except TimeoutError:
            return ()

    async def done(self, count: int) -> None:
        """Forget them."""
        self._require()
        del self._server.packets[self._place][:count]

    async def aclose(self) -> None:
        """Nothing is open."""
