"""One round: its stages, one after the other, each in as many steps as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from orchestrator.retention.lease import Fence
from orchestrator.retention.policy import ENDS
from orchestrator.retention.rounds.archiving import Archiving
from orchestrator.retention.rounds.dead_letters import OldLetters
from orchestrator.retention.rounds.means import Means
from orchestrator.retention.rounds.runs import OldHistories, OldRuns
from orchestrator.retention.rounds.turns import Turns
from orchestrator.retention.rounds.unarchived import Unarchived


class Round:
    """A round under that fence."""

    def __init__(self, means: Means, fence: Fence) -> None:
        self._means = means
        self._turns = Turns(means, fence)
        kinds = OldRuns(self._turns), OldHistories(self._turns), OldLetters(self._turns)
        archiving = Archiving(self._turns, kinds)
        unarchived = Unarchived(self._turns)
        self._steps = 0
        self._stages: list[Callable[[], Awaitable[bool]]] = [
            archiving.finish,
            *(partial(archiving.remove, it) for it in kinds),
            unarchived.remove_keys,
            unarchived.remove_refused,
            unarchived.remove_tombstones,
        ]

    async def step(self) -> bool:
        """Do one step. Whether there may be another one."""
        self._steps += 1
        if self._stages and self._steps < self._means.limits.steps:
            if not await self._stages[0]():
                del self._stages[0]
            return True
        async with self._turns.fenced() as connection:
            names = await self._means.store.names(connection)
            oldest = await self._means.store.oldest(connection, names, ENDS)
            await self._means.lease.end_round(connection, oldest)
            await self._means.lease.give_back(connection, self._turns.fence)
        self._means.tally.rounds += 1
        return False

    async def leave(self) -> None:
        """Give the lease back."""
        async with self._means.transaction() as connection:
            await self._means.lease.give_back(connection, self._turns.fence)
