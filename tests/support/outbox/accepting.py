"""A way of messages that only takes them: a durable queue, as a broker has, in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from outbox.errors import MalformedEnvelope
from outbox.replies import Reply
from outbox.transports.base import Accepted, Answered, Delivery, Unacceptable, Unreachable
from outbox.transports.brokers.sorting import Lot, lot_of
from outbox.wire.envelope import Envelope, from_batch, to_batch

Consume = Callable[[Sequence[Envelope]], Awaitable[Sequence[Reply]]]


class Queue:
    """The broker: what it was given stays until a consumer is done with it."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.is_gone = False
        self.is_silent = False
        self.changed = asyncio.Event()

    async def append(self, bodies: Sequence[bytes]) -> None:
        """Keep them. Raises ConnectionError where the broker is gone; hangs where it is silent."""
        if self.is_gone:
            raise ConnectionError("the broker is gone")
        if self.is_silent:
            await asyncio.Event().wait()
        self.messages += bodies
        self.changed.set()


class AcceptingTransport:
    """Takes what it is given, and gives it to a consumer that drains it, in its order."""

    def __init__(self, *, timeout: float = 4.0) -> None:
        self.broker = Queue()
        self.taken: list[Envelope] = []
        """Every envelope that was accepted, in its order."""
        self._timeout = timeout
        self._closed = False

    @property
    def queue(self) -> deque[bytes]:
        """What waits for a consumer."""
        return self.broker.messages

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Keep them."""
        if not envelopes:
            return Answered(())
        if self._closed:
            return Unreachable("the transport is closed", sent=False)
        try:
            bodies = [to_batch([each]) for each in envelopes]
            carried = [each for body in bodies for each in from_batch(body)]
        except (MalformedEnvelope, ValueError, TypeError) as error:
            return Unacceptable(str(error))
        try:
            async with asyncio.timeout(self._timeout):
                await self.broker.append(bodies)
        except TimeoutError:
            return Unreachable(f"no answer within {self._timeout:g} s", sent=True)
        except ConnectionError as error:
            return Unreachable(str(error), sent=False)
        self.taken += carried
        return Accepted()

    async def aclose(self) -> None:
        """Take nothing more."""
        self._closed = True

    async def drain(self, consume: Consume) -> int:
        """Give the consumer all that is there, one by one; how many it was done with. What it is
        not done with comes again, before all others."""
        done = 0
        while self.queue:
            (envelope,) = from_batch(self.queue[0])
            (reply,) = await consume([envelope])
            if lot_of(envelope, reply) in (Lot.AGAIN, Lot.HELD):
                break
            self.queue.popleft()
            done += 1
        return done
