"""A resolver that looks again and again, beside the deliveries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from outbox.errors import OutboxError
from outbox.transports.addresses.address import Found
from outbox.transports.addresses.destination import MAX_ADDRESSES

FLOOR = 1.0
CEILING = 60.0
"""Seconds between two looks, at least and at most, also where a name server says another."""
LONGEST_PAUSE = 30.0
"""Seconds between two looks that find nothing, at most; the pause doubles from one to the other."""

log = logging.getLogger("outbox.relay")


class Unresolved(OutboxError):
    """A look that found no addresses."""


@dataclass(frozen=True)
class Look:
    """The outcome of one look: the addresses, and after how many seconds to look again."""

    found: Sequence[Found]
    again_in: float


class Watching:
    """The resolver that calls `look`, which raises Unresolved where it finds nothing, and `at_end`
    when it is closed.

    What was found stays until something else is found: a name server that is away, or that says
    that there is no such name, does not make a destination unreachable that answers.
    """

    def __init__(
        self,
        source: str,
        look: Callable[[], Awaitable[Look]],
        *,
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._at_end = at_end
        self.trouble: str | None = None
        self._source = source
        self._look = look
        self.known: Sequence[Found] = ()
        self._failures = 0
        self._has_looked = asyncio.Event()
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def found(self) -> Sequence[Found]:
        """The addresses that are known now; at the first call, after the end of the first look."""
        if self._task is None and not self._is_closed:
            self._task = asyncio.create_task(self._keep_looking())
        if not self._has_looked.is_set():
            await self._has_looked.wait()
        return self.known

    def doubt(self) -> None:
        """Look again soon, though not before FLOOR seconds after the last look."""
        self._doubted.set()

    async def aclose(self) -> None:
        """End the looking. Calling it twice is fine."""
        self._is_closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._at_end is not None:
                await self._at_end()
        self._has_looked.set()

    async def look_once(self) -> float:
        """Look, and return the seconds until the next look."""
        try:
            look = await self._look()
        except Unresolved as error:
            return self._failed(str(error))
        except Exception as error:
            log.exception("the addresses of %s could not be read", self._source)
            return self._failed(f"{type(error).__name__}: {error}")
        finally:
            self._has_looked.set()
        return self._succeeded(look)

    async def _keep_looking(self) -> None:
        while True:
            # A doubt that comes while the look is under way may be about what it finds.
            self._doubted.clear()
            pause = await self.look_once()
            await asyncio.sleep(min(pause, FLOOR))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause - FLOOR):
                    await self._doubted.wait()

    def _failed(self, reason: str) -> float:
        if self.trouble is None:
            log.warning("%s: %s; %d known addresses stay", self._source, reason, len(self.known))
        self.trouble = reason
        self._failures += 1
        return min(LONGEST_PAUSE, FLOOR * 2.0 ** min(self._failures - 1, 16))

    def _succeeded(self, look: Look) -> float:
        self._failures = 0
        found = _each_once(look.found)
        trouble = None
        if len(found) > MAX_ADDRESSES:
            trouble = (
                f"{self._source} has {len(found)} addresses, of which {MAX_ADDRESSES} are used; "
                "correct the name, or give it fewer"
            )
            found = found[:MAX_ADDRESSES]
        if trouble != self.trouble:
            log.warning("%s", trouble or f"{self._source} is found again")
        self.trouble = trouble
        if found != self.known:
            names = ", ".join(str(it.address) for it in found)
            log.info("%s has the addresses %s", self._source, names)
            self.known = found
        return min(CEILING, max(FLOOR, look.again_in))


def _each_once(found: Sequence[Found]) -> Sequence[Found]:
    """Each address once, those that are used first at the front."""
    once: dict[object, Found] = {}
    for it in sorted(found, key=lambda each: each.priority):
        once.setdefault(it.address, it)
    return tuple(once.values())
