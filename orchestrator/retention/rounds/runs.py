"""Old runs, and old histories of runs that stay, as a round archives and removes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.archive.lines import Item
from orchestrator.retention.files import HISTORIES, RUNS
from orchestrator.retention.policy import ENDS
from orchestrator.retention.rounds.turns import Turns
from orchestrator.retention.store import AgeOf, Group

_Find = Callable[[AsyncConnection, Group, int, int], Awaitable[Sequence[str]]]


class OldRuns:
    """The runs that are as old as the policy says."""

    kind = RUNS

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._store = turns.means.store
        self._age = turns.means.policy.age
        self._groups = _Groups(turns, self._age, self._store.old_runs)

    async def next(self, connection: AsyncConnection) -> Sequence[Item] | None:
        """The next ones; None after the last."""
        ids = await self._groups.next(connection)
        return (await self._store.items(connection, ids) or None) if ids else None

    async def staying(self, connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
        """Those of these runs that are to stay by now."""
        return await self._store.staying(connection, ids, self._age, self._turns.now)

    async def remove(
        self, connection: AsyncConnection, revisions: Mapping[str, int], archive_id: str | None
    ) -> frozenset[str]:
        """Remove these runs over the revisions that they were read in. Returns those that went."""
        turns = self._turns
        removed = await self._store.remove_runs(
            connection,
            revisions,
            remember_from=turns.remember_from,
            below=turns.below,
            archive_id=archive_id,
        )
        turns.removed.update(runs=len(removed.runs), lines=removed.lines, aliases=removed.aliases)
        return removed.runs


class OldHistories:
    """The histories that go before their runs."""

    kind = HISTORIES

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._histories = turns.means.histories
        self._policy = turns.means.policy
        self._groups: _Groups | None = None

    async def next(self, connection: AsyncConnection) -> Sequence[Item] | None:
        """The next ones; None after the last, and where none go before their runs."""
        if self._policy.history is None:
            return None
        if self._groups is None:
            find = self._histories.old_histories
            self._groups = _Groups(self._turns, self._policy.history_age, find)
        ids = await self._groups.next(connection)
        return (await self._histories.items(connection, ids) or None) if ids else None

    async def staying(self, connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
        """Those of these runs whose histories are to stay by now."""
        age = self._policy.history_age
        return await self._turns.means.store.staying(connection, ids, age, self._turns.now)

    async def remove(
        self, connection: AsyncConnection, revisions: Mapping[str, int], archive_id: str | None
    ) -> frozenset[str]:
        """Remove the histories of these runs over the revisions that they were read in. Returns
        the runs whose histories went."""
        removed = await self._histories.remove_histories(connection, revisions, archive_id)
        self._turns.removed.update(histories=len(removed.runs), lines=removed.lines)
        return removed.runs


class _Groups:
    """The groups of runs that have an age, one after the other."""

    def __init__(self, turns: Turns, age: AgeOf, find: _Find) -> None:
        self._turns = turns
        self._age = age
        self._find = find
        self._left: list[Group] | None = None

    async def next(self, connection: AsyncConnection) -> Sequence[str]:
        """What is found of the first group that has any; those before it are done."""
        if self._left is None:
            self._left = await self._all(connection)
        means = self._turns.means
        while self._left:
            size, most_bytes = means.pace.size, means.limits.file_bytes
            if ids := await self._find(connection, self._left[0], size, most_bytes):
                return ids
            del self._left[0]
        return ()

    async def _all(self, connection: AsyncConnection) -> list[Group]:
        return [
            Group(name, status, self._turns.now - old)
            for name in await self._turns.means.store.names(connection)
            for status in ENDS
            if (old := self._age(name, status)) is not None
        ]
