"""The way of one process to a destination through a broker: the library's transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.testing.brokers.broker import BrokerClient, VirtualBroker
from orchestrator.testing.virtual.network import Air
from orchestrator.testing.virtual.process import ProcessClock
from orchestrator.testing.virtual.storage import NoLimit
from orchestrator.testing.virtual.timeline import Timeline
from outbox.transports.base import Delivery
from outbox.transports.brokers.transport import BrokerTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas


class BrokerWay:
    """The transport of one process to the destination `name`; `overlaps` is as in `Air`, and
    `settled` tells which runs have ended."""

    def __init__(
        self,
        timeline: Timeline,
        name: str,
        broker: VirtualBroker,
        keys: Keyring,
        overlaps: Callable[[str, str], None],
        settled: Callable[[], EndedSagas | None],
    ) -> None:
        self._air = Air(name, overlaps)
        self._transport = BrokerTransport(
            BrokerClient(broker),
            to=name,
            keys=keys,
            clock=ProcessClock(timeline),
            settled=settled,
            within=NoLimit,
        )

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """As `Transport` promises."""
        with self._air.carrying(envelopes):
            return await self._transport.deliver(envelopes)

    async def aclose(self) -> None:
        """Nothing is open."""
