"""Events that are written one by one beside the sending service, and when each was committed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import outbox
from benchmarks.hearing.pair import Pair
from benchmarks.hearing.services import ROUTES, TALKER, Noted
from outbox.coordination.bell import Bell
from outbox.coordination.wake_ups import WakeUps
from outbox.tables import DEFAULT_TABLES

TEXT = "x" * 280
_HEARD_WITHIN = 60.0

Write = Callable[[str], Awaitable[None]]
"""Commits an event of that key."""


class Said:
    """What was committed, and when. No more than this is heard of the services meanwhile."""

    def __init__(self, services: Pair) -> None:
        self._services = services
        self._numbers = itertools.count(1)
        self._committed: dict[str, float] = {}

    async def write(self, write: Write) -> str:
        """Let an event be committed; its key."""
        key = f"said-{next(self._numbers)}"
        await write(key)
        self._committed[key] = time.monotonic()
        return key

    async def until_heard(self) -> None:
        """Return as soon as all were handled."""
        await self._services.until_heard(len(self._committed), _HEARD_WITHIN)

    async def latencies(self, keys: Iterable[str]) -> list[float]:
        """Seconds from commit to handler, of each of these that were heard."""
        heard: Mapping[str, float] = await self._services.heard()
        # The handler may begin before the writer knows of its commit.
        return [max(0.0, heard[key] - self._committed[key]) for key in keys]


def waking(services: Pair, bell: Bell) -> AbstractAsyncContextManager[None]:
    """For the block the bell wakes the sending service, as that of each of its processes does."""
    engine = services.engines[TALKER]
    return WakeUps(engine, bell, DEFAULT_TABLES, is_alone=lambda: False).running()


def beside(services: Pair, bell: Bell) -> Write:
    """Writes in this process, beside the sending one."""
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(services.engines[TALKER])
    outbox.install(sessions, source=TALKER, routes=ROUTES, bell=bell)

    async def write(key: str) -> None:
        async with sessions.begin() as session:
            outbox.add(session, Noted(key, TEXT))

    return write
