"""The statements of every group commit: one opens it, one writes its changes.

On PostgreSQL each of them is a single statement, since round trips would take longer than all the
rest; and where nothing has to be read in between, one statement is the whole commit. SQLite has no
round trips, and gets the parts one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import delete, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.registry import Registry
from orchestrator.store import bulk, commit_parts
from orchestrator.store.commit_parts import CommitRows, Writes
from orchestrator.store.records import Record
from orchestrator.store.sharding import LEASED_AS
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock
from outbox.database.troubles import Trouble, trouble_in_statement, was_refused
from outbox.ids import derive
from outbox.relay.message_store import Store

_KEPT = timedelta(days=1)
"""How much longer the id of a commit that never was is kept: it may still be on its way."""


class StaleRuns(Exception):
    """Another node wrote a run since it was read; the transaction must not be committed."""


class DoesNotFit(Exception):
    """The database has something else than a commit was made for, or refuses what is in it. Nothing
    was written."""


class CommitStatements(DatabaseClock):
    """The statements that open and fill group commits."""

    def __init__(
        self,
        registry: Registry,
        tables: SagaTables,
        *,
        postgres: bool,
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables
        self._rows = CommitRows(registry, postgres=postgres)
        self._relay = Store(tables.messaging, postgres=postgres, now=now, leased_as=LEASED_AS)

    # Opening

    async def open(
        self,
        connection: AsyncConnection,
        batch: str,
        epochs: Mapping[int, int],
        *,
        idle: float,
    ) -> tuple[datetime | None, frozenset[int]]:
        """Write the id of a group commit, and fence its shards. Returns the database's time, and
        which of these shards (with their epochs) are this node's until the end of the transaction.

        The time is None where the id is there already: the batch was committed. It waits for
        another transaction that is writing the same id. `idle` is how many seconds the transaction
        may rest before the database ends it.
        """
        if not self._postgres:
            ours = await self.fence(connection, epochs)
            return await self._write_id(connection, batch), ours
        asked = self._fenced(batch, epochs, idle)
        row = (await connection.execute(commit_parts.opening(self._tables), asked)).one()
        return row.made_at, frozenset(row.ours or ())

    def _fenced(self, batch: str, epochs: Mapping[int, int], idle: float) -> dict[str, Any]:
        return {
            "batch": batch,
            "leased_as": LEASED_AS,
            "idle": str(max(1, int(idle * 1000))),
            "epochs": orjson.dumps(list(epochs.items())).decode(),
        }

    async def fence(self, connection: AsyncConnection, epochs: Mapping[int, int]) -> frozenset[int]:
        """Fence these shards. Returns those that are this node's until the transaction ends."""
        return await self._relay.fence(connection, LEASED_AS, epochs) if epochs else frozenset()

    async def was_committed(self, connection: AsyncConnection, batch: str) -> bool:
        """Whether the group commit with that id took place. Where it did not, it never will once
        this transaction is committed. It waits for another one that is writing the id.

        It can be asked again where its own outcome is unknown.
        """
        saga_batch = self._tables.saga_batch
        # A second id tells the row of an earlier look, whose answer was lost, from the commit's.
        of_look = derive(batch, "never")
        if await self._write_id(connection, batch, keep=_KEPT) is None:
            looked = select(saga_batch.c.id).where(saga_batch.c.id == of_look)
            return await connection.scalar(looked) is None
        await self._write_id(connection, of_look, keep=_KEPT)
        return False

    async def _write_id(
        self, connection: AsyncConnection, batch: str, keep: timedelta = timedelta()
    ) -> datetime | None:
        """Write an id, to be kept for so much longer; None where it is there already."""
        saga_batch = self._tables.saga_batch
        statement = (
            self._insert(saga_batch)
            .values(id=batch, made_at=self._in(keep))
            .on_conflict_do_nothing()
            .returning(saga_batch.c.made_at)
        )
        found: datetime | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def forget_batches(self, connection: AsyncConnection, before: timedelta) -> None:
        """Remove the ids of group commits that are older than that."""
        saga_batch = self._tables.saga_batch
        await connection.execute(delete(saga_batch).where(saga_batch.c.made_at < self._in(-before)))

    # Filling

    async def insert(
        self, connection: AsyncConnection, records: Sequence[Record], now: datetime
    ) -> Mapping[str, int]:
        """Write new runs, and those that were taken out. Returns the bytes of those that were
        written: the ids of the others are known, or another run is active for their key."""
        sizes: dict[str, int] = {}
        document = bulk.document(self._rows.begun(records, sizes, now))
        statement = commit_parts.inserting(self._tables, postgres=self._postgres)
        written = await connection.scalars(statement, {"begun": document})
        return {saga_id: sizes[saga_id] for saga_id in written.all()}

    async def write(
        self, connection: AsyncConnection, writes: Writes, now: datetime
    ) -> Mapping[str, int]:
        """Write the changes. Returns the numbers of the messages to send, by their ids.

        Raises StaleRuns.
        """
        documents = self._rows.documents(writes, now)
        if not documents:
            return {}
        if self._postgres:
            statement = commit_parts.filling(self._tables, tuple(documents))
            rows = (await connection.execute(statement, documents)).all()
            updated = rows[0].updated
            seqs = {row.id: row.seq for row in rows if row.id is not None}
        else:
            updated, seqs = 0, {}
            for part, document in documents.items():
                sql = commit_parts.part(self._tables, part)
                result = await connection.execute(sql, {part: document})
                if part == "sagas":
                    updated = result.rowcount
                elif part == "messages":
                    seqs = {row.id: row.seq for row in result}
        if updated != len(writes.records):
            raise StaleRuns
        return seqs

    # Both at once

    @property
    def fit_in_one(self) -> bool:
        """Whether a whole group commit can be one statement."""
        return self._postgres

    async def commit_at_once(
        self,
        connection: AsyncConnection,
        batch: str,
        epochs: Mapping[int, int],
        writes: Writes,
        now: datetime,
        *,
        idle: float,
    ) -> tuple[datetime, Mapping[str, int]]:
        """Commit these changes, made at the time `now`, in one statement. Returns the database's
        time, and the numbers of the messages to send.

        Nothing is written where one of the shards is another node's, a run is not in the revision
        that it was read in, a new one or its key is there already, an alias is in the way, or `now`
        is not the database's time. The connection is one of `by_statement`. Raises DoesNotFit, and
        the database's errors: where such a one was not a refusal, the outcome is unknown.
        """
        documents = self._rows.documents(writes, now)
        statement = commit_parts.committing(self._tables, tuple(documents))
        counts = {
            "keys": len(writes.keys),
            "begun": len(writes.begun),
            "sagas": len(writes.records),
        }
        asked = {
            **self._fenced(batch, epochs, idle),
            **documents,
            **{f"number_{it}": count for it, count in counts.items() if it in documents},
            "fences": len(epochs),
            "now": now,
        }
        try:
            rows = (await connection.execute(statement, asked)).all()
            # A connection for a pooler has a transaction around the statement.
            await connection.commit()
        except DBAPIError as error:
            if was_refused(error) and trouble_in_statement(error) is Trouble.OWN:
                raise DoesNotFit from error
            raise
        return rows[0].made_at, {row.id: row.seq for row in rows if row.id is not None}
