"""The watchers of runs in this process, which are told of each commit about their run.

A node tells only of its own commits, so every waiting caller also looks by itself from time to
time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class Watch:
    """The watch of one caller over one run."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def changed(self, timeout: float) -> bool:
        """Whether a change was committed since the last call, or is within `timeout` seconds."""
        if not await _within(timeout, self._changed):
            return False
        self._changed.clear()
        return True

    async def ended(self, timeout: float) -> bool:
        """Whether the end of the run was committed, or is within `timeout` seconds."""
        return await _within(timeout, self._ended)

    def tell(self, *, ended: bool) -> None:
        """Tell the watch of a new change."""
        self._changed.set()
        if ended:
            self._ended.set()


class Watchers:
    """The watches of all callers, by run. For one event loop."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watching(self, instance_id: str) -> Iterator[Watch]:
        """A context with a watch over a run. Begin it before looking at the run, so that no change
        is missed."""
        watch = Watch()
        self._watches.setdefault(instance_id, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[instance_id]
            watches.discard(watch)
            if not watches:
                del self._watches[instance_id]

    def tell(self, instance_ids: Iterable[str], *, ended: Collection[str] = ()) -> None:
        """Tell the watches that these runs have changed, and some of them ended."""
        if not self._watches:
            return
        for instance_id in instance_ids:
            for watch in self._watches.get(instance_id, ()):
                watch.tell(ended=instance_id in ended)


async def _within(timeout: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
