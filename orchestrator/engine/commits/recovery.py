"""Recovery from commits that failed: the unknown outcome, the batch divided, the run parked."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.engine.commits.items import Begin, Decline, Item, by_run
from orchestrator.engine.ports import EnginePorts
from orchestrator.engine.shards import Shards
from orchestrator.store.sharding import shard_of
from outbox.safe_text import described

log = logging.getLogger(__name__)

_TRIES = 20


class NotCommitted(Exception):
    """The database did not take the commit."""


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection. Raises NotCommitted where there is none: no run is to blame, since no statement
    about any was sent yet."""
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(engine.connect())
        except Exception as error:
            raise NotCommitted(described(error)) from error
        yield connection


class Recovery:
    """The recovery of one node: finds the outcome of a commit, and the run that is to blame."""

    def __init__(self, engine: AsyncEngine, ports: EnginePorts, shards: Shards) -> None:
        self._engine = engine
        self._ports = ports
        self._shards = shards
        self._sleep: Callable[[float], Awaitable[None]] = ports.sleep

    async def find_out(self, batch: str, error: BaseException) -> None:
        """Find out what became of a commit whose answer was this error, and whose connection was
        given up. Raises NotCommitted where it did not take place."""
        log.warning("whether a commit took place is unknown: %s", described(error))
        if not await self._was_committed(batch):
            raise NotCommitted(described(error)) from error

    async def _was_committed(self, batch: str) -> bool:
        """Find out whether the commit took place, by writing its id again: that waits for a
        transaction still under way, and lets none that comes later take place."""
        for attempt in range(_TRIES):
            try:
                async with self._engine.begin() as connection:
                    was_committed = await self._ports.statements.was_committed(connection, batch)
                return was_committed
            except Exception as error:
                log.warning("the outcome of a commit is still unknown: %s", described(error))
                await self._sleep(min(2.0, 0.1 * 2**attempt))
        # Tell no caller anything. If the steps were written, their runs' revisions show it.
        return False

    async def park(self, saga_id: str, error: Exception) -> str:
        """Park the run that is to blame for a failed commit. Returns the reason."""
        log.error("saga %s cannot be worked on", saga_id, exc_info=error, extra={"saga": saga_id})
        reason = f"a commit failed: {described(error)}"
        try:
            await self._write_park(saga_id, reason)
        except Exception as another:
            log.warning("it could not be parked: %s", described(another))
        return reason

    async def _write_park(self, saga_id: str, reason: str) -> None:
        shard = shard_of(saga_id)
        epochs = {it: epoch for it, epoch in self._shards.leases.epochs.items() if it == shard}
        async with self._engine.begin() as connection:
            if epochs and await self._ports.statements.fence(connection, epochs):
                await self._ports.runs.park(connection, saga_id, reason)


def halves(items: Sequence[Item]) -> Sequence[Sequence[Item]]:
    """The items in two parts, with each run in one of them; none where all are of one run."""
    runs = list(by_run(items).values())
    if len(runs) == 1:
        return ()
    middle = len(runs) // 2
    return [[item for run in half for item in run] for half in (runs[:middle], runs[middle:])]


def refusals(items: Sequence[Item], reason: str) -> Sequence[Decline]:
    """The refusals of the starts among the items that came by a message."""
    return [
        Decline(
            *(it.instance_id, it.originator or "", reason, it.seq, it.trace, it.start_id),
            it.fingerprint,
        )
        for it in items
        if isinstance(it, Begin) and it.seq is not None
    ]
