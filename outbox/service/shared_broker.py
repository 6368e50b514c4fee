"""One client of a broker for several transports, which close it together."""

from __future__ import annotations

from collections.abc import Sequence

from outbox.transports.brokers.broker import Broker, BrokerAway, BrokerFeatures, Packet, Reading


class SharedBroker:
    """A broker that is closed when all of its shares are. Take them before one is closed."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open = 0

    def share(self) -> Broker:
        """A share of it, which is used like the broker itself."""
        self._open += 1
        return _Share(self._broker, self)

    async def give_back(self) -> None:
        """One share is closed."""
        self._open -= 1
        if self._open == 0:
            await self._broker.aclose()


class _Share:
    def __init__(self, broker: Broker, shared: SharedBroker) -> None:
        self._broker = broker
        self._shared: SharedBroker | None = shared

    @property
    def features(self) -> BrokerFeatures:
        return self._broker.features

    @property
    def partitions(self) -> int:
        return self._broker.partitions

    async def publish(self, queue: str, packets: Sequence[Packet]) -> None:
        self._require_open()
        await self._broker.publish(queue, packets)

    async def open(self, queue: str, partition: int) -> Reading:
        self._require_open()
        return await self._broker.open(queue, partition)

    async def waiting(self, queue: str) -> int:
        self._require_open()
        return await self._broker.waiting(queue)

    async def aclose(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.give_back()

    def _require_open(self) -> None:
        if self._shared is None:
            raise BrokerAway("the broker is closed", sent=False)
