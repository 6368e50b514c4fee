"""The reader of a service's queue at one broker."""

from __future__ import annotations

import asyncio
import logging

from outbox.errors import OutboxError
from outbox.transports.brokers.broker import BrokerAway
from outbox.transports.brokers.consumer import Consumer
from outbox.transports.brokers.figures import QueueFigures

log = logging.getLogger("outbox.service")

REACHED_WITHIN = 3.0
"""Seconds that a service which starts waits for its broker."""
_ANSWERED_WITHIN = 1.5
"""Seconds that a broker has to answer those who ask for its state."""


class QueueReader:
    """Lets a consumer read while its service runs. `broker` says where, without a secret. What is
    not `ours` is a topic of others: a service is ready without it."""

    def __init__(self, consumer: Consumer, broker: str, *, ours: bool = True) -> None:
        self._consumer = consumer
        self._broker = broker
        self._ours = ours
        self._was_reached = False
        self._has_ended = False

    async def reach(self) -> None:
        """Ask the broker for the queue. One that does not answer is logged, and read as soon as it
        is there. Raises BrokerRefused where its own queue cannot be read as the settings say."""
        try:
            why = await self._why_away(REACHED_WITHIN)
        except OutboxError as error:
            if self._ours:
                raise
            why = str(error)
        if why is not None:
            log.warning("%s cannot be read yet, and is tried again and again: %s", self, why)

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set; then finish the batches in hand. Never raises."""
        try:
            await self._consumer.run(stop)
        except Exception:
            self._has_ended = True
            log.critical("%s is not read any more, by an error", self, exc_info=True)

    async def trouble(self) -> tuple[str, str] | None:
        """Why the service is not ready on account of this queue, and what is to be done; None where
        it is. A broker that was reached once may be away: the service goes on without it."""
        if self._has_ended:
            return f"{self} is not read any more", "restart the service; its log says why it ended"
        if self._was_reached or not self._ours:
            return None
        try:
            why = await self._why_away(_ANSWERED_WITHIN)
        except OutboxError as error:
            return f"{self}: {error.problem}", error.next_step
        if why is None:
            return None
        return (
            f"{self} has not been reached since the service began: {why}",
            "start the broker, or correct its address in SAGABOX_BROKER; it is tried again and "
            "again",
        )

    async def figures(self) -> QueueFigures:
        """Its figures of now."""
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN):
                waiting = await self._consumer.waiting()
        except (TimeoutError, BrokerAway, OutboxError):
            waiting = None
        counts, owned = self._consumer.counts, len(self._consumer.owned)
        return QueueFigures(self._broker, counts, owned, waiting)

    async def aclose(self) -> None:
        """Close the connections to the broker."""
        await self._consumer.aclose()

    def __str__(self) -> str:
        return f"the queue {self._consumer.queue} at {self._broker}"

    async def _why_away(self, within: float) -> str | None:
        try:
            async with asyncio.timeout(within):
                await self._consumer.waiting()
        except TimeoutError:
            return f"no answer within {within:g} s"
        except BrokerAway as away:
            return away.reason
        self._was_reached = True
        return None
