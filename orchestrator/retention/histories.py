"""The SQL about histories that go before their runs. Each method is one step of the caller's
transaction, and uses an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.retention.archive.lines import Item, history_item
from orchestrator.retention.pace import within
from orchestrator.retention.store import (
    LINE,
    Group,
    Removed,
    RetentionStore,
    counted_to,
    old,
)
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock


class HistoryStore(DatabaseClock):
    """The histories of one installation's runs."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables
        self._runs = RetentionStore(tables, postgres=postgres, now=now)
        # As the index has them: the first is NULL in all rows that are found.
        self._oldest = tables.saga.c.history_removed_at, tables.saga.c.ended_at

    def _old(self, group: Group) -> Select[Any]:
        return old(self._tables, group).where(self._tables.saga.c.history_removed_at.is_(None))

    async def old_histories(
        self, connection: AsyncConnection, group: Group, most: int, most_bytes: int
    ) -> Sequence[str]:
        """The runs of that group that ended first and have their histories, up to so many and,
        about, so many bytes of lines; one at least, if there are any."""
        saga = self._tables.saga
        found = self._old(group).add_columns((LINE * saga.c.entries).label("size"))
        rows = await connection.execute(found.order_by(*self._oldest).limit(most))
        return [row.id for row in within(rows, most_bytes)]

    async def count_old(
        self, connection: AsyncConnection, group: Group, since: datetime | None, most: int
    ) -> tuple[int, datetime | None]:
        """How many runs of that group, of those that ended since, are to lose their histories,
        counted to `most`, and the oldest end."""
        saga = self._tables.saga
        found = self._old(group).add_columns(saga.c.ended_at).order_by(*self._oldest)
        if since is not None:
            found = found.where(saga.c.ended_at >= since)
        return await counted_to(connection, found, most)

    async def items(self, connection: AsyncConnection, ids: Sequence[str]) -> list[Item]:
        """The histories of these runs as they are archived."""
        runs = await self._runs.runs(connection, ids)
        history = await self._runs.history(connection, ids)
        return [history_item(it, history.get(it.id, ())) for it in runs]

    async def remove_histories(
        self, connection: AsyncConnection, revisions: Mapping[str, int], archive_id: str | None
    ) -> Removed:
        """Delete the lines of these runs, over the revisions that they were read in, and mark the
        runs. The numbers of the lines stay taken: the run's `entries` counts them."""
        if not revisions:
            return Removed(frozenset())
        saga, line = self._tables.saga, self._tables.saga_history
        # First the mark: it waits for a step of the run that is under way, and then leaves it out.
        marked = await connection.scalars(
            update(saga)
            .where(tuple_(saga.c.id, saga.c.revision).in_(sorted(revisions.items())))
            .where(saga.c.ended_at.is_not(None), saga.c.history_removed_at.is_(None))
            .values(history_removed_at=self._now, history_archive_id=archive_id)
            .returning(saga.c.id)
        )
        ids = frozenset(marked.all())
        if not ids:
            return Removed(ids)
        lines = await connection.execute(delete(line).where(line.c.saga_id.in_(sorted(ids))))
        return Removed(ids, lines.rowcount)
