"""What a round removes without an archive: idempotency keys, refused starts, and tombstones."""

from __future__ import annotations

from orchestrator.retention.rounds.turns import Turns
from outbox.ids import first_at


class Unarchived:
    """The steps that remove it. Each says whether there may be more."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._store = turns.means.store
        self._policy = turns.means.policy

    async def remove_keys(self) -> bool:
        """Remove the next idempotency keys."""
        if self._policy.keys is None:
            return False
        async with self._turns.fenced() as connection:
            before, size = first_at(self._turns.now - self._policy.keys), self._size
            gone = await self._store.remove_keys(connection, before, size)
            return self._counted("keys", gone, size)

    async def remove_refused(self) -> bool:
        """Remove the next starts that were refused."""
        turns = self._turns
        if self._policy.refused is None:
            return False
        async with turns.fenced() as connection:
            before, size = turns.now - self._policy.refused, self._size
            gone = await self._store.remove_refused(
                connection, before, turns.remember_from, turns.below, size
            )
            return self._counted("refused", gone, size)

    async def remove_tombstones(self) -> bool:
        """Remove the next ids of runs that are remembered no longer."""
        turns = self._turns
        async with turns.fenced() as connection:
            size = self._size
            gone = await self._store.remove_tombstones(
                connection, turns.remember_from, turns.below, size
            )
            return self._counted("tombstones", gone, size)

    @property
    def _size(self) -> int:
        return self._turns.means.pace.size

    def _counted(self, kind: str, gone: int, size: int) -> bool:
        self._turns.removed[kind] += gone
        return gone == size
