"""An application in an event loop of its own, in a thread beside those of a WSGI server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.applications import Starlette

from outbox.coordination.loops import log_failure
from outbox.errors import OutboxError

log = logging.getLogger("outbox.service")

T = TypeVar("T")

_AGAIN_AFTER = 1.0
_REQUESTS_END_WITHIN = 5.0
"""Seconds for the requests under way at the end. A delivery is answered within less than that."""


class HasEnded(OutboxError):
    """The application was stopped, and answers no more."""

    def __init__(self) -> None:
        super().__init__(
            "the service is stopping, and takes nothing more",
            next_step="send the same request again, to another worker of it",
        )


class Background:
    """The run of one application, from the start of its thread to `stop`.

    An application that cannot start yet is started again every second. It answers requests all the
    same; its /readyz says that it is not ready.
    """

    def __init__(self, app: Starlette, *, name: str) -> None:
        self._app = app
        self._started: Future[None] = Future()
        """The outcome of the first attempt to start the application."""
        self._loop_is_there = threading.Event()
        self._gate = threading.Lock()
        self._is_open = True
        self._requests: set[Future[Any]] = set()
        # Nothing may keep the process from ending but `stop`, which waits for what is in hand.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main()), name=f"{name} in the background", daemon=True
        )
        self._thread.start()
        self._loop_is_there.wait()

    def wait_until_started(self) -> None:
        """Return when the application has started. Raises what its first attempt raised."""
        self._started.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it in the event loop. What is not done at the end is cancelled. Raises HasEnded."""
        with self._gate:
            if not self._is_open:
                work.close()
                raise HasEnded
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._requests.add(future)
        future.add_done_callback(self._requests.discard)
        return future

    def call(self, function: Any, *args: object) -> None:
        """Call it in the event loop, if that goes on."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def stop(self, within: float) -> None:
        """End the requests under way, then the application with what it has in hand; at most so
        many seconds."""
        self.call(self._stopping.set)
        self._thread.join(within)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._loop_is_there.set()
        while not self._stopping.is_set():
            try:
                async with self._app.router.lifespan_context(self._app):
                    self._settle(None)
                    await self._stopping.wait()
                    await self._end_requests()
            except Exception as error:
                self._settle(error)
                log_failure(log, "the service did not start, or end, as it should", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_AFTER):
                        await self._stopping.wait()
        await self._end_requests()

    def _settle(self, error: Exception | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)

    async def _end_requests(self) -> None:
        with self._gate:
            self._is_open = False
            requests = [asyncio.wrap_future(it) for it in [*self._requests]]
        if requests:
            _, late = await asyncio.wait(requests, timeout=_REQUESTS_END_WITHIN)
            for request in late:
                request.cancel()
