"""Delivery within the process: for tests, simulations, and services that live in one process.

The messages go through the codec both ways, so that a message that cannot travel does not arrive
here either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from outbox.errors import MalformedEnvelope
from outbox.ids import derive
from outbox.replies import Reply
from outbox.transports.base import DEFAULT_TIMEOUT, Answered, Delivery, Unacceptable, Unreachable
from outbox.wire.envelope import (
    Envelope,
    from_batch,
    replies_from_batch,
    replies_to_batch,
    to_batch,
)
from outbox.wire.settled import EndedSagas

Receive = Callable[[Sequence[Envelope], EndedSagas | None], Awaitable[Sequence[Reply]]]
"""An `Inbox.receive`: one reply for each envelope, in their order."""

_log = logging.getLogger(__name__)


class MemoryTransport:
    """The transport that hands batches to `receive`. After an exception there, or a wait of more
    than `timeout` seconds, the outcome is unknown. `settled` is asked at each delivery."""

    def __init__(
        self,
        receive: Receive,
        *,
        settled: Callable[[], EndedSagas | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._receive = receive
        self._settled = settled
        self._timeout = timeout
        self._closed = False

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch, and wait for the answer."""
        if not envelopes:
            return Answered(())
        if self._closed:
            return Unreachable("the transport is closed", sent=False)
        try:
            arrived = from_batch(to_batch(envelopes))
        except (MalformedEnvelope, ValueError, TypeError) as error:
            return Unacceptable(str(error))
        settled = self._settled() if self._settled is not None else None
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._receive(arrived, settled)
            return Answered(_carried_back(arrived, replies))
        except TimeoutError:
            return Unreachable(f"no answer within {self._timeout:g} s", sent=True)
        except Exception as error:
            _log.warning("the receiver raised", exc_info=True)
            return Unreachable(f"the receiver raised {error!r}", sent=True)

    async def aclose(self) -> None:
        """Deliver nothing more. Calling it twice is fine."""
        self._closed = True


def _carried_back(asked: Sequence[Envelope], replies: Sequence[Reply]) -> list[Reply]:
    ids = (derive(each.id, "reply") for each in asked)
    body = replies_to_batch(
        asked[0].source, asked, replies, new_id=lambda: next(ids), now=asked[0].time
    )
    return replies_from_batch(body, [each.id for each in asked])
