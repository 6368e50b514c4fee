"""Old dead letters, as a round archives and removes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.archive.lines import Item, letter_item
from orchestrator.retention.files import LETTERS
from orchestrator.retention.letters import Place, place_of
from orchestrator.retention.rounds.turns import Turns
from outbox.operations.dead_rows import saga_of


class OldLetters:
    """The dead letters that are as old as the policy says, and of no run that lives."""

    kind = LETTERS

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._letters = turns.means.letters
        self._age = turns.means.policy.letters
        self._after: Place | None = None

    async def next(self, connection: AsyncConnection) -> Sequence[Item] | None:
        """The next ones, none where all that were looked at stay; None after the last, and where
        none are removed."""
        if self._age is None:
            return None
        means = self._turns.means
        rows = await self._letters.old_letters(
            connection,
            self._turns.now - self._age,
            self._after,
            means.pace.size,
            means.limits.file_bytes,
        )
        if not rows:
            return None
        self._after = place_of(rows[-1])
        sagas = {it.id: saga_of(it.headers) for it in rows}
        living = await self._letters.living(connection, {it for it in sagas.values() if it})
        return [letter_item(it) for it in rows if sagas[it.id] not in living]

    async def staying(self, connection: AsyncConnection, ids: Collection[str]) -> frozenset[str]:
        """Those of these letters that are to stay by now."""
        before = None if self._age is None else self._turns.now - self._age
        return await self._letters.staying(connection, ids, before)

    async def remove(
        self, connection: AsyncConnection, revisions: Mapping[str, int], archive_id: str | None
    ) -> frozenset[str]:
        """Remove these letters. Returns those that went."""
        before = self._turns.now - (self._age or timedelta())
        gone = await self._letters.remove_letters(connection, revisions.keys(), before)
        self._turns.removed["letters"] += len(gone)
        return gone
