"""A broker with one queue, which outlives all processes; and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.testing.brokers.witness import Kept, Witness
from orchestrator.testing.virtual.chances import Chances, Fault, Number
from orchestrator.testing.virtual.network import LATEST, when
from orchestrator.testing.virtual.timeline import Gate, Timeline, Wait
from outbox.transports.brokers.broker import (
    BrokerAway,
    BrokerFeatures,
    Packet,
    ReadingLost,
    Taken,
)

_MOST_PARTITIONS = 2
_LONGEST_LINGER = 3.0
"""Seconds for which a broker gathers packets before it gives some out."""


class _Partition:
    """The packets that are not done, in their order; `reader` is the number of the last reader, and
    `given` says how many of the packets it has."""

    def __init__(self) -> None:
        self.packets: list[Kept] = []
        self.reader = 0
        self.given = 0
        self.changed = Gate()

    def tell(self) -> None:
        """Wake those that wait for packets."""
        self.changed.set()
        self.changed = Gate()

    def leave(self) -> None:
        """Let no reader have it."""
        self.reader += 1
        self.given = 0
        self.tell()


class VirtualBroker:
    """The queue of one destination. A request takes `latency` seconds, at least and at most, and
    a sender waits for a confirmation for `timeout` seconds. `open` says how many requests are on
    their way whose senders have stopped waiting."""

    features = BrokerFeatures(durable="for the whole history")

    def __init__(
        self,
        timeline: Timeline,
        chances: Chances,
        witness: Witness,
        timeout: float,
        latency: tuple[float, float],
    ) -> None:
        self.open = 0
        self.chances = chances
        self.witness = witness
        self._timeline = timeline
        self._timeout = timeout
        self._latency = latency
        self._away_until = 0.0
        self.partitions = 1 + chances.below(Number.BROKER, _MOST_PARTITIONS)
        self.linger = _LONGEST_LINGER * chances.number(Number.BROKER) ** 2
        self._places = [_Partition() for _ in range(self.partitions)]

    @property
    def left(self) -> int:
        """How many packets are not done, or on their way."""
        return self.open + sum(len(it.packets) for it in self._places)

    @property
    def is_away(self) -> bool:
        """Whether it cannot be reached."""
        return self._away_until > self._timeline.now

    def cut(self, seconds: float) -> None:
        """Let no sender and no reader reach it for so long; all readers have lost it."""
        self._away_until = self._timeline.now + seconds
        for place in self._places:
            place.leave()

    def heal(self) -> None:
        """Let everybody reach it."""
        self._away_until = 0.0

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """As `Broker` promises."""
        chances = self.chances
        await self.pause()
        if self.is_away:
            raise BrokerAway("connection refused", sent=False)
        if chances.fault(Fault.UNCONFIRMED):
            await self._leave_unconfirmed(packets)
        self._take(packets)
        if chances.fault(Fault.LATE_CONFIRM):
            await Wait(chances.between(Number.LENGTH, 0.1, 2 * self._timeout))
        await self.pause()

    async def _leave_unconfirmed(self, packets: Sequence[Packet]) -> None:
        chances = self.chances
        kept = chances.below(Number.BROKER, len(packets) + 1)
        self._take(packets[:kept])
        if chances.below(Number.BROKER, 2):
            self._put_later(packets[kept:], when(chances))
        if chances.below(Number.BROKER, 2):
            raise BrokerAway("connection reset", sent=True)
        await Wait(self._timeout)
        raise TimeoutError

    def _put_later(self, packets: Sequence[Packet], seconds: float) -> None:
        async def put() -> None:
            self._put(packets)
            self.open -= 1

        self.open += 1
        self._timeline.after(seconds, put)

    def _take(self, packets: Sequence[Packet]) -> None:
        if self.chances.fault(Fault.REDELIVERED):
            if self.chances.below(Number.BROKER, 2):
                self._put(packets)
            else:
                self._put_later(packets, LATEST * self.chances.number(Number.BROKER))
        self._put(packets)

    def _put(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            place = self._places[packet.partition]
            place.packets.insert(self._position(place, packet), self.witness.kept(packet))
            place.tell()

    def _position(self, place: _Partition, packet: Packet) -> int:
        """Where it comes to stand: behind those of its key, and those that were read."""
        position = len(place.packets)
        if self.chances.fault(Fault.INTERLEAVED):
            while position > place.given and place.packets[position - 1].packet.key != packet.key:
                position -= 1
        return position

    async def open_for(self, partition: int, taken: Callable[[], None]) -> VirtualReading:
        """Read a partition, as `Broker.open` promises; `taken` is called before packets are
        given."""
        await self.pause()
        if self.is_away:
            raise BrokerAway("connection refused", sent=False)
        place = self._places[partition]
        place.leave()
        return VirtualReading(self, place, taken)

    async def pause(self) -> None:
        """The time that a request takes."""
        await Wait(self.chances.between(Number.LATENCY, *self._latency))


class VirtualReading:
    """A reading of one partition."""

    def __init__(self, broker: VirtualBroker, place: _Partition, taken: Callable[[], None]) -> None:
        self._broker = broker
        self._place = place
        self._number = place.reader
        self._taken = taken

    def _require(self) -> None:
        if self._broker.is_away:
            raise BrokerAway("connection reset", sent=True)
        if self._place.reader != self._number:
            raise ReadingLost

    async def next(self, most: int, wait: float) -> Sequence[Taken]:
        """What follows. It waits for as long as there is nothing."""
        place, chances = self._place, self._broker.chances
        self._require()
        while len(place.packets) == place.given:
            await place.changed.wait()
            self._require()
        await self._broker.pause()
        await Wait(self._broker.linger)
        self._require()
        there = place.packets[place.given : place.given + most]
        for many in range(1, len(there)):
            if chances.fault(Fault.SPLIT):
                there = there[:many]
        place.given += len(there)
        self._taken()
        return [Taken(it.packet, str(it.number)) for it in there]

    async def done(self, count: int) -> None:
        """Forget them."""
        place, chances = self._place, self._broker.chances
        await self._broker.pause()
        self._require()
        if chances.fault(Fault.REDELIVERED):
            raise BrokerAway("the acknowledgement was lost", sent=True)
        gone = place.packets[:count]
        self._broker.witness.forgotten(gone)
        del place.packets[:count]
        place.given -= count

    async def aclose(self) -> None:
        """Nothing is open."""


class BrokerClient:
    """The broker, as one reader sees it. `read_at` is the moment at which that one was given
    packets last."""

    def __init__(self, broker: VirtualBroker) -> None:
        self.read_at = 0
        self.features = broker.features
        self.partitions = broker.partitions
        self._broker = broker

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        """As `Broker` promises."""
        await self._broker.publish(queue, packets)

    async def open(self, queue: str, partition: int) -> VirtualReading:
        """As `Broker` promises."""
        return await self._broker.open_for(partition, self._taken)

    def _taken(self) -> None:
        self.read_at = self._broker.witness.moment()

    async def waiting(self, queue: str) -> int:
        """How many are there."""
        return self._broker.left

    async def aclose(self) -> None:
        """Nothing is open."""
