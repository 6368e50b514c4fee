"""The messages that a process works on, so that a copy of one starts no second transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager


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

    @contextmanager
    def taken(self, ids: Collection[str]) -> Iterator[None]:
        """A context in which these ids are in hand; none of them was before."""
        end = asyncio.Event()
        self._ends |= dict.fromkeys(ids, end)
        try:
            yield
        finally:
            for id in ids:
                self._ends.pop(id, None)
            end.set()

    def _any(self, ids: Collection[str]) -> str | None:
        return next((id for id in ids if id in self._ends), None)
