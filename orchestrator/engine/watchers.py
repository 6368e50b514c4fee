"""The watchers of runs in this process, which are told of each commit about their run.

A node tells only of its own commits, so every waiting caller also looks by itself from time to
time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from orchestrator.store.records import Committed
from outbox.contract import SagaStuck

log = logging.getLogger(__name__)

OnStuck = Callable[[SagaStuck], None]
"""A function that is called with each step that gets stuck, after the commit, in the event loop. It
must return at once. What it raises is logged and changes nothing; where the process dies before the
call, there is none."""


class Watch:
    """The watch of one caller over one run."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.end: Committed | None = None
        """The run as its end was committed here, once that was told."""

    async def changed(self, timeout: float) -> bool:
        """Whether a change was committed since the last call, or is within `timeout` seconds."""
        if not await _within(timeout, self._changed):
            return False
        self._changed.clear()
        return True

    async def ended(self, timeout: float) -> bool:
        """Whether the end of the run was committed, or is within `timeout` seconds."""
        return await _within(timeout, self._ended)

    def tell(self, end: Committed | None) -> None:
        """Tell the watch of a new change; `end` is the run where that was its end."""
        self._changed.set()
        if end is not None:
            self.end = end
            self._ended.set()


class Watchers:
    """The watches of all callers, by run. For one event loop."""

    def __init__(self, on_stuck: OnStuck | None = None) -> None:
        self._on_stuck = on_stuck
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

    def tell(
        self, instance_ids: Iterable[str], *, ended: Mapping[str, Committed] = MappingProxyType({})
    ) -> None:
        """Tell the watches that these runs have changed, and that some of them, by their ids, have
        ended."""
        if not self._watches:
            return
        for instance_id in instance_ids:
            for watch in self._watches.get(instance_id, ()):
                watch.tell(ended.get(instance_id))

    def tell_stuck(self, events: Iterable[SagaStuck]) -> None:
        """Tell the function that wants to know of these stuck steps, if there is one."""
        if self._on_stuck is None:
            return
        for event in events:
            try:
                self._on_stuck(event)
            except Exception:
                log.exception(
                    "on_stuck failed for step %s of saga %s",
                    event.step,
                    event.instance_id,
                    extra={"saga": event.instance_id},
                )


async def _within(timeout: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
