"""The wake-ups between the processes of a service: each hears by a notification of PostgreSQL that
another one has committed something, and need not wait until it looks by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.coordination.bell import Bell
from outbox.coordination.loops import log_failure
from outbox.coordination.notifications import (
    Notifications,
    can_notify,
    channel_of,
    notifications,
)
from outbox.database.table_set import TableSet

log = logging.getLogger("outbox.relay")

_BETWEEN = 0.01
"""Seconds from one notification to the next, at least."""
_CHECK = 10.0
"""Seconds after which the server is asked whether it is still there."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 60.0


class WakeUps:
    """The wake-ups of one process: it notifies the others once its bell has rung, which is after
    the commit, and rings the bell when another one notifies.

    A notification only spares waiting. None is promised to come, and one that comes in vain costs a
    look; so each process goes on to look by itself. The writers' own transactions do not notify,
    since PostgreSQL commits those that do one after the other. `is_alone` says whether no other
    process can have anything to do with what this one commits, because this one has every lease: it
    then notifies no process. A process that gains a lease looks for what is there already.

    On SQLite, through a pooler and with other drivers it does nothing.
    """

    def __init__(
        self, engine: AsyncEngine, bell: Bell, tables: TableSet, *, is_alone: Callable[[], bool]
    ) -> None:
        self._engine = engine
        self._bell = bell
        self._channel = channel_of(tables)
        self._is_alone = is_alone
        self._caused = 0
        """The rings that were of others."""
        self._told = 0
        """The rings of this process that the others were told of."""
        self._failures = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Notify and hear until the block ends. Trouble is logged and waited out."""
        if not can_notify(self._engine):
            yield
            return
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                async with notifications(self._engine, self._channel, self._ring) as others:
                    if others is None:
                        log.info(
                            "a pooler is before the database: this process is not woken by the "
                            "commits of others, and only looks for them by itself"
                        )
                        return
                    # The commits until now were told to those that listened.
                    self._ring()
                    await self._notify(others)
            except Exception as error:
                self._failures += 1
                if self._failures == 1:
                    what = "is not woken by the commits of other processes, trying again"
                    log_failure(log, what, error)
            # Neither a server that is away nor one that ends each connection is asked all the time.
            await asyncio.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 10)))

    async def _notify(self, others: Notifications) -> None:
        loop = asyncio.get_running_loop()
        check_at = loop.time() + _CHECK
        while not others.is_lost:
            rings = self._bell.rings
            own = rings - self._caused
            if own != self._told:
                if not self._is_alone():
                    await others.notify()
                self._told = own
                # Commits that come close together share a notification.
                await asyncio.sleep(_BETWEEN)
            else:
                await self._bell.wait(max(0.0, check_at - loop.time()), since=rings)
            if loop.time() >= check_at:
                await others.check()
                self._failures = 0
                check_at = loop.time() + _CHECK
        raise ConnectionResetError("the connection was lost")

    def _ring(self) -> None:
        # Those that are woken by others do not wake them in turn.
        self._caused += 1
        self._bell.ring()
