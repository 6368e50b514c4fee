"""The work of one service that goes on beside its requests: its relay and the purge of its inbox,
started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from outbox.coordination.loops import log_failure
from outbox.inbox.inbox import Inbox

log = logging.getLogger("outbox.runtime")

PURGE_INTERVAL = 60.0
DRAIN_SECONDS = 5.0
HANDLERS_HAVE = 10.0
"""The seconds that handlers have at least when their service stops."""


class Carrier(Protocol):
    """The carrier of a service's messages to its peers: a `Relay`, or more than that."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish the work in hand, and return."""


class Runtime:
    """A service's relay and the purge of its inbox.

        runtime = outbox.Runtime(inbox, relay)
        async with runtime.running():
            ...  # serve

    `carrier` is None for a service that sends no messages: replies go back on the connection that
    brought the commands. `purge_interval` and `drain_seconds` are in seconds; what the carrier has
    in hand at the end has so long, and is then cancelled. Handlers and calls to the outside
    have as long as the slowest of them may take, and at least 10 s.
    """

    def __init__(
        self,
        inbox: Inbox,
        carrier: Carrier | None = None,
        *,
        purge_interval: float = PURGE_INTERVAL,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._inbox = inbox
        self._carrier = carrier
        self._purge_interval = purge_interval
        self._drain_seconds = drain_seconds
        self._carrying: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def runs_here(self) -> bool:
        """Whether it runs in this event loop, and is not about to stop."""
        return self._loop is asyncio.get_running_loop()

    @property
    def is_carrying(self) -> bool:
        """Whether messages are carried now. It is False before the start, and after an error that
        ended the carrier."""
        return self._carrying is not None and not self._carrying.done()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry and purge until the block ends. An error of the carrier does not end the block: it
        is logged, and messages stay where they are until the service is started again."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._keep_purging(stop))]
        if self._carrier is not None:
            self._carrying = asyncio.create_task(self._keep_carrying(self._carrier, stop))
            tasks.append(self._carrying)
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
            stop.set()
            handlers = max(HANDLERS_HAVE, self._inbox.longest_work)
            await asyncio.gather(self._drain(tasks), self._inbox.drain(handlers))

    async def _keep_carrying(self, carrier: Carrier, stop: asyncio.Event) -> None:
        try:
            await carrier.run(stop)
        except Exception as error:
            log.critical("the relay ended by an error", exc_info=error)

    async def _keep_purging(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._purge_interval)
                return
            try:
                await self._inbox.purge()
            except Exception as error:
                log_failure(log, "the inbox was not purged, trying again later", error)

    async def _drain(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(tasks, timeout=self._drain_seconds)
        for task in late:
            log.warning("work in hand took too long and was ended; its messages are sent again")
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
