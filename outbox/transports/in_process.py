"""Delivery to a service that runs in the same process: its inbox takes the batch, without a network
and without a signature.

What it takes goes on when the sender does not wait any more, as it would behind a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from outbox.replies import Reply
from outbox.transports.base import DEFAULT_TIMEOUT, Delivery, Unreachable
from outbox.transports.memory import MemoryTransport
from outbox.wire.envelope import Envelope
from outbox.wire.settled import EndedSagas

_log = logging.getLogger(__name__)


class Receiving(Protocol):
    """The inbox of a service."""

    async def receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None = None
    ) -> Sequence[Reply]:
        """One answer for each envelope, in their order."""


class Neighbour(Protocol):
    """A service of the same process, such as an `outbox.Service`."""

    @property
    def name(self) -> str: ...
    @property
    def inbox(self) -> Receiving: ...
    @property
    def runs_here(self) -> bool:
        """Whether it runs, in this event loop, and is not about to stop."""


class InProcessTransport:
    """The transport to a service of the same process and event loop. While that does not run,
    nothing is sent; after a wait of more than `timeout` seconds the outcome is unknown. `settled`
    is asked at each delivery."""

    def __init__(
        self,
        neighbour: Neighbour,
        *,
        settled: Callable[[], EndedSagas | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._neighbour = neighbour
        self._memory = MemoryTransport(self._take, settled=settled, timeout=timeout)
        self._under_way: set[asyncio.Task[Sequence[Reply]]] = set()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        """Deliver the batch, and wait for the answer."""
        if envelopes and not self._neighbour.runs_here:
            name = self._neighbour.name
            return Unreachable(f"{name} does not run in this process and event loop", sent=False)
        return await self._memory.deliver(envelopes)

    async def aclose(self) -> None:
        """Deliver nothing more. Calling it twice is fine."""
        await self._memory.aclose()

    async def _take(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None
    ) -> Sequence[Reply]:
        task = asyncio.create_task(self._receive(envelopes, settled))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _receive(
        self, envelopes: Sequence[Envelope], settled: EndedSagas | None
    ) -> Sequence[Reply]:
        return await self._neighbour.inbox.receive(envelopes, settled)

    def _ended(self, task: asyncio.Task[Sequence[Reply]]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("a delivery to %s ended by an error", self._neighbour.name, exc_info=error)
