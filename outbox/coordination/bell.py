"""The bell that wakes the relay: rung after a commit, within the process, without I/O."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class Bell:
    """A bell that any thread may ring, and that any number of tasks in any event loops hear.

    A ring says that there may be something to do, never what: rings may fall together, and a
    process that dies rings no more, so every listener also looks by itself from time to time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rings = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def rings(self) -> int:
        """How often it has rung. Read it before looking for work, and hand it to `wait`."""
        return self._rings

    def ring(self) -> None:
        """Wake every waiting task."""
        with self._lock:
            self._rings += 1
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            # A closed loop has no task left to wake.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self, timeout: float, *, since: int | None = None) -> bool:
        """Whether it rang within `timeout` seconds.

        `since` is an earlier value of `rings`: a ring after that counts too, so that none is
        missed between looking for work and waiting for more.
        """
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if since is not None and since != self._rings:
                return True
            self._waiting.add(future)
        try:
            # Not wait_for(): in Python 3.11 that forgets a cancellation which comes with the ring.
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting.discard(future)
        return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
