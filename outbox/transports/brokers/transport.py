"""The transport to a destination through a broker: `Accepted`, once the broker has all durably."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from outbox.clock import Clock
from outbox.errors import MalformedEnvelope
from outbox.safe_text import fit
from outbox.transports.base import DEFAULT_TIMEOUT, Accepted, Delivery, Unacceptable, Unreachable
from outbox.transports.brokers.broker import Broker, BrokerAway, BrokerRefused, PacketRefused
from outbox.transports.brokers.packets import packed
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

log = logging.getLogger("outbox.brokers")


class BrokerTransport:
    """The transport to the service `to`, whose consumer reads the queue of that name.

    `settled` gives the orchestrator's statement about its ended sagas, at each delivery; it travels
    with each message. One delivery takes at most `timeout` seconds, connecting included; `within`
    holds it to that.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        to: str,
        keys: Keyring,
        clock: Clock,
        settled: Callable[[], EndedSagas | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        within: Callable[[float], AbstractAsyncContextManager[object]] = asyncio.timeout,
    ) -> None:
        self._broker = broker
        self._queue = to
        self._keys = keys
        self._clock = clock
        self._settled = settled
        self._timeout = timeout
        self._within = within
        self._closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Give the batch to the broker, and wait until it has all of it."""
        if not envelopes:
            return Accepted()
        if self._closed:
            return Unreachable("the transport is closed", sent=False)
        statement, now = self._statement(), self._clock.now()
        broker = self._broker
        try:
            packets = [
                packed(
                    each,
                    self._queue,
                    broker.partitions,
                    keys=self._keys,
                    now=now,
                    statement=statement,
                )
                for each in envelopes
            ]
        except (MalformedEnvelope, ValueError, TypeError) as error:
            return Unacceptable(fit(f"the message cannot be written: {error}"))
        largest = broker.features.largest
        for packet in packets:
            if largest is not None and len(packet.body) > largest:
                return Unacceptable(
                    f"a message of {len(packet.body)} bytes is larger than the {largest} that the "
                    "broker takes"
                )
        try:
            async with self._within(self._timeout):
                await broker.publish(self._queue, packets)
        except TimeoutError:
            return Unreachable(f"no answer within {self._timeout:g} s", sent=True)
        except BrokerAway as away:
            return Unreachable(fit(away.reason), sent=away.sent)
        except PacketRefused as refused:
            return Unacceptable(fit(str(refused)))
        except BrokerRefused as refused:
            return Unreachable(fit(str(refused)), sent=False)
        return Accepted()

    async def aclose(self) -> None:
        """Release connections. Calling it twice is fine."""
        self._closed = True
        await self._broker.aclose()

    def _statement(self) -> dict[str, str] | None:
        settled = self._settled() if self._settled is not None else None
        if settled is None:
            return None
        try:
            return settled.to_headers()
        except ValueError as error:
            # Without it the receiver only remembers for longer.
            log.error("the statement about ended sagas is left out: %s; choose a smaller id", error)
            return None
