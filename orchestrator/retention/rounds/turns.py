"""The transactions of one round, each under the lease."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.lease import Fence
from orchestrator.retention.rounds.means import Means
from outbox.ids import first_at


class Turns:
    """The transactions of a round. What each of them takes sets the pace."""

    def __init__(self, means: Means, fence: Fence) -> None:
        self.means = means
        self.fence = fence
        self.now = means.clock.now()
        """The database's time of the last transaction."""
        self.below: str | None = None
        """The id from which on starts are remembered, as the tables had it then."""
        self.removed = Counter[str]()
        """What the transaction under way removed: it counts once that is committed."""

    @property
    def remember_from(self) -> str:
        """The first id that the policy wants to be remembered."""
        return first_at(self.now - self.means.policy.ids)

    @asynccontextmanager
    async def fenced(self) -> AsyncIterator[AsyncConnection]:
        """A transaction under the lease. Raises LostLease where another process has it by now."""
        means = self.means
        began = means.clock.monotonic()
        self.removed.clear()
        async with means.transaction() as connection:
            self.now, self.below = await means.lease.fence(connection, self.fence)
            yield connection
        means.tally.removed.update(self.removed)
        means.pace = means.pace.after(means.clock.monotonic() - began)
