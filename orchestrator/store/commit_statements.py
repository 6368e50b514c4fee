"""The statements of every group commit: one opens it, one writes its changes.

On PostgreSQL each of them is a single statement, since round trips would take longer than all the
rest. SQLite has no round trips, and gets the parts one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, TextClause, TextualSelect, column, delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.registry import Registry
from orchestrator.machine.transition import Entry
from orchestrator.store import bulk
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record, active_key, document_json, state_json
from orchestrator.store.sharding import LEASED_AS
from orchestrator.tables import SagaTables
from outbox.database.table_set import in_sql
from outbox.database.time import DatabaseClock
from outbox.relay.message_store import Store

_CHANGING = (
    *("status", "paused", "parked", "state", "document", "entries", "active_key", "due_at"),
    *("updated_at", "ended_at"),
)
_INSERTED = (
    *("id", "shard", "name", "version", "key", "originator", "trace", "start_id", "number"),
    *("created_at", "begin_at", "fingerprint", "revision"),
    *_CHANGING,
)
_HISTORY = ("saga_id", "number", "at", "happening", "detail", "step", "command_id", "actor")
_MESSAGE = (
    *("id", "destination", "bucket", "aggregatetype", "aggregateid", "type", "payload"),
    *("headers", "occurred_at"),
)


@dataclass
class Writes:
    """The writes of a group commit: runs over the revision that they were read in, lines of history
    (run, number, entry), numbers of answered messages, and messages to send."""

    records: Sequence[Record] = ()
    history: list[tuple[str, int, Entry]] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    messages: list[OutgoingMessage] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """The stored bytes of each run; known once the runs are written."""


class StaleRuns(Exception):
    """Another node wrote a run since it was read; the transaction must not be committed."""


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
        self._registry = registry
        self._values = bulk.Values(postgres=postgres)
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
            return await self.write_batch(connection, batch), ours
        row = (
            await connection.execute(
                _open(self._tables),
                {
                    "batch": batch,
                    "leased_as": LEASED_AS,
                    "idle": str(max(1, int(idle * 1000))),
                    "epochs": orjson.dumps(list(epochs.items())).decode(),
                },
            )
        ).one()
        return row.made_at, frozenset(row.ours or ())

    async def fence(self, connection: AsyncConnection, epochs: Mapping[int, int]) -> frozenset[int]:
        """Fence these shards. Returns those that are this node's until the transaction ends."""
        return await self._relay.fence(connection, LEASED_AS, epochs) if epochs else frozenset()

    async def write_batch(self, connection: AsyncConnection, batch: str) -> datetime | None:
        """Write the id of a group commit alone, as `open` does."""
        saga_batch = self._tables.saga_batch
        statement = (
            self._insert(saga_batch)
            .values(id=batch, made_at=self._now)
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
        rows = [{**self._row(it, now), "revision": it.revision + 1} for it in records]
        sizes = {it.instance.id: _size(row) for it, row in zip(records, rows, strict=True)}
        statement = _insert_sagas(self._tables, postgres=self._postgres)
        written = await connection.scalars(statement, {"sagas": bulk.document(rows)})
        return {saga_id: sizes[saga_id] for saga_id in written.all()}

    async def write(
        self, connection: AsyncConnection, writes: Writes, now: datetime
    ) -> Mapping[str, int]:
        """Write the changes. Returns the numbers of the messages to send, by their ids.

        Raises StaleRuns.
        """
        documents = self._documents(writes, now)
        if not documents:
            return {}
        if self._postgres:
            statement = _write_at_once(self._tables, tuple(documents))
            rows = (await connection.execute(statement, documents)).all()
            updated = rows[0].updated
            seqs = {row.id: row.seq for row in rows if row.id is not None}
        else:
            updated, seqs = 0, {}
            for part, document in documents.items():
                sql = _part(self._tables, part)
                result = await connection.execute(sql, {part: document})
                if part == "sagas":
                    updated = result.rowcount
                elif part == "messages":
                    seqs = {row.id: row.seq for row in result}
        if updated != len(writes.records):
            raise StaleRuns
        return seqs

    def _documents(self, writes: Writes, now: datetime) -> dict[str, str]:
        documents: dict[str, str] = {}
        if writes.records:
            rows = [{**self._row(it, now), "revision": it.revision} for it in writes.records]
            for record, row in zip(writes.records, rows, strict=True):
                writes.sizes[record.instance.id] = _size(row)
            documents["sagas"] = bulk.document(rows)
        if writes.history:
            documents["history"] = bulk.document([self._line(*it) for it in writes.history])
        if writes.answered:
            documents["answered"] = orjson.dumps(writes.answered).decode()
        if writes.messages:
            documents["messages"] = bulk.document([self._message(it) for it in writes.messages])
        return documents

    def _row(self, record: Record, now: datetime) -> dict[str, Any]:
        instance, values = record.instance, self._values
        definition = self._registry.get(instance.saga, instance.version)
        return {
            "id": values.id(instance.id),
            "shard": record.shard,
            "name": instance.saga,
            "version": instance.version,
            "key": instance.key,
            "originator": record.originator,
            "trace": record.trace,
            "start_id": values.id(record.start_id),
            "number": values.id(record.number),
            "created_at": values.time(instance.created_at),
            "begin_at": values.time(instance.begin_at),
            "fingerprint": record.fingerprint,
            "status": instance.status.value,
            "paused": instance.paused,
            "parked": None,
            "state": state_json(definition, instance.state),
            "document": document_json(record),
            "entries": record.entries,
            "active_key": active_key(definition, instance),
            "due_at": values.time(record.due_at),
            "updated_at": values.time(now),
            "ended_at": None if instance.ended is None else values.time(now),
        }

    def _line(self, saga_id: str, number: int, entry: Entry) -> dict[str, Any]:
        return {
            "saga_id": self._values.id(saga_id),
            "number": number,
            "at": self._values.time(entry.at),
            "happening": entry.happening.value,
            "detail": entry.detail,
            "step": entry.step,
            "command_id": self._values.id(entry.command_id),
            "actor": entry.actor,
        }

    def _message(self, message: OutgoingMessage) -> dict[str, Any]:
        row = message.row()
        row["id"] = self._values.id(row["id"])
        row["occurred_at"] = self._values.time(row["occurred_at"])
        return row


def _size(row: Mapping[str, Any]) -> int:
    texts = (row["state"], row["document"])
    return sum(len(it) if it.isascii() else len(it.encode()) for it in texts)


@cache
def _open(tables: SagaTables) -> TextClause:
    return text(f"""
WITH idle AS (
    SELECT set_config('idle_in_transaction_session_timeout', :idle, true)
), fence AS (
    SELECT l.bucket FROM {in_sql(tables.messaging.outbox_lease)} l
    WHERE l.destination = :leased_as AND (l.bucket, l.epoch) IN (
        SELECT CAST(e ->> 0 AS smallint), CAST(e ->> 1 AS bigint)
        FROM json_array_elements(CAST(:epochs AS json)) e)
    ORDER BY l.bucket FOR KEY SHARE
), batch AS (
    INSERT INTO {in_sql(tables.saga_batch)} (id, made_at)
    VALUES (CAST(:batch AS uuid), clock_timestamp())
    ON CONFLICT DO NOTHING RETURNING made_at
)
SELECT (SELECT made_at FROM batch) AS made_at, (SELECT array_agg(bucket) FROM fence) AS ours
FROM idle
""")


@cache
def _insert_sagas(tables: SagaTables, *, postgres: bool) -> TextualSelect:
    saga = tables.saga
    statement = bulk.insert(saga, _INSERTED, "sagas", postgres=postgres)
    return text(f"{statement} ON CONFLICT DO NOTHING RETURNING id").columns(saga.c.id)


@cache
def _part(tables: SagaTables, name: str) -> TextClause | TextualSelect:
    """A part alone, for SQLite."""
    outbox = tables.messaging.outbox
    statement = text(_sql_of(tables, name, postgres=False))
    return statement.columns(outbox.c.seq, outbox.c.id) if name == "messages" else statement


@cache
def _write_at_once(tables: SagaTables, parts: tuple[str, ...]) -> TextualSelect:
    """One statement for PostgreSQL. All parts see the tables as they were before it, and none
    touches a row that another one does."""
    named = [
        f"{part} AS ({_sql_of(tables, part, postgres=True)}"
        f"{' RETURNING 1' if part == 'sagas' else ''})"
        for part in parts
    ]
    updated = "(SELECT count(*) FROM sagas)" if "sagas" in parts else "0"
    messages = (
        "messages.seq, messages.id FROM (VALUES (1)) AS one(n) LEFT JOIN messages ON true"
        if "messages" in parts
        else "CAST(NULL AS bigint) AS seq, CAST(NULL AS uuid) AS id"
    )
    statement = text(f"WITH {', '.join(named)} SELECT {updated} AS updated, {messages}")
    outbox = tables.messaging.outbox
    return statement.columns(column("updated", BigInteger), outbox.c.seq, outbox.c.id)


def _sql_of(tables: SagaTables, part: str, *, postgres: bool) -> str:
    outbox = tables.messaging.outbox
    match part:
        case "sagas":
            return bulk.update(
                *(tables.saga, _CHANGING, ("id", "revision"), "sagas"),
                postgres=postgres,
                also=["revision = stored.revision + 1"],
                # A late answer may come after the end, which stays when it was.
                once=["ended_at"],
            )
        case "history":
            return bulk.insert(tables.saga_history, _HISTORY, "history", postgres=postgres)
        case "messages":
            sql = bulk.insert(outbox, _MESSAGE, "messages", postgres=postgres)
            return f"{sql} RETURNING seq, id"
        case "answered" if postgres:
            return (
                f"DELETE FROM {in_sql(outbox)} WHERE seq IN (SELECT CAST(value AS bigint) "
                "FROM json_array_elements_text(CAST(:answered AS json)))"
            )
        case "answered":
            return (
                f"DELETE FROM {in_sql(outbox)} "
                "WHERE seq IN (SELECT value FROM json_each(:answered))"
            )
        case _:
            raise ValueError(part)
