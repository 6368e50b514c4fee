"""The messages that a process works on, so that a copy of one starts no second transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Collection


class InHand:
    """The ids of the messages in hand. It belongs to one event loop."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Event] = {}

    async def others(self, ids: Collection[str], patience: float) -> frozenset[str]:
        """The ids that are in hand and still are after `patience` seconds. The caller holds no
        transaction meanwhile, and none of the ids."""
        if not self._any(ids):
            return frozenset()
        try:
            async with asyncio.timeout(patience):
                while found := self._any(ids):
                    await self._ends[found].wait()
        except TimeoutError:
            pass
        return frozenset(id for id in ids if id in self._ends)

    def take(self, ids: Collection[str]) -> Hold:
        """Take these ids in hand, of which none is so far."""
        end = asyncio.Event()
        self._ends |= dict.fromkeys(ids, end)
        return Hold(self._ends, ids, end)

    def _any(self, ids: Collection[str]) -> str | None:
        return next((id for id in ids if id in self._ends), None)


class Hold:
    """What one delivery has in hand, until it is released."""

    def __init__(
        self, ends: dict[str, asyncio.Event], ids: Collection[str], end: asyncio.Event
    ) -> None:
        self._ends = ends
        self._ids = set(ids)
        self._end = end

    def release(self, *, all_but: Collection[str] = ()) -> None:
        """Let go of the ids, except for some."""
        for id in self._ids.difference(all_but):
            del self._ends[id]
        self._ids.intersection_update(all_but)
        if not self._ids:
            self._end.set()
