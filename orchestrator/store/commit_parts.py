"""The parts of a group commit: what it writes, as rows in JSON texts (see `bulk`), and the SQL that
writes them.
On PostgreSQL all parts are one statement. They see the tables as they were before it, and none
touches a row that another one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Integer, TextClause, TextualSelect, column, text

from orchestrator.definition.registry import Registry
from orchestrator.machine.transition import Entry
from orchestrator.store import bulk
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record, active_key, document_json, state_json
from orchestrator.store.start_store import StartKey
from orchestrator.tables import SagaTables
from outbox.database.column_types import UtcDateTime
from outbox.database.table_set import in_sql
from outbox.replacing import replace

_CHANGING = (
    *("status", "paused", "parked", "state", "document", "entries", "active_key", "due_at"),
    *("updated_at", "ended_at"),
)
_INSERTED = (
    *("id", "shard", "name", "version", "key", "originator", "trace", "start_id", "number"),
    *("created_at", "begin_at", "fingerprint", "revision"),
    *_CHANGING,
)
_KEY = ("name", "key", "fingerprint", "saga_id")
_HISTORY = ("saga_id", "number", "at", "happening", "detail", "step", "command_id", "actor")
_MESSAGE = (
    *("id", "destination", "bucket", "aggregatetype", "aggregateid", "type", "payload"),
    *("headers", "occurred_at"),
)
_DOES_NOT_FIT = "the group commit does not fit, and is made step by step"
"""What PostgreSQL's log shows of a group commit in one statement that did not fit."""
PRECISION = timedelta(seconds=1)
"""By how much the time of such a commit may differ from the database's."""


@dataclass
class Writes:
    """The writes of a group commit: runs over the revision that they were read in, lines of history
    (run, number, entry), numbers of answered messages, and messages to send.

    The others are of a commit in one statement alone: new runs with their idempotency keys, and the
    numbers of the signals that asked for them; new runs whose ids must not be those of aliases, and
    runs that must have none.
    """

    keys: Sequence[StartKey] = ()
    begun: Sequence[Record] = ()
    applied: Sequence[int] = ()
    unknown: Sequence[str] = ()
    alone: Sequence[str] = ()
    records: Sequence[Record] = ()
    history: list[tuple[str, int, Entry]] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    messages: list[OutgoingMessage] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """The stored bytes of each run; known once the runs are written."""


class CommitRows:
    """The maker of the rows of one database."""

    def __init__(self, registry: Registry, *, postgres: bool) -> None:
        self._registry = registry
        self._values = bulk.Values(postgres=postgres)

    def documents(self, writes: Writes, now: datetime) -> dict[str, str]:
        """The rows of each part that has any, as one JSON text. Notes the sizes of the runs."""
        rows: dict[str, Sequence[Any]] = {
            "keys": [_key(it) for it in writes.keys],
            "begun": self.begun(writes.begun, writes.sizes, now),
            "sagas": [self._row(it, writes.sizes, now) for it in writes.records],
            "history": [self._line(*it) for it in writes.history],
            "answered": writes.answered,
            "applied": writes.applied,
            "messages": [self._message(it) for it in writes.messages],
            "unknown": writes.unknown,
            "alone": writes.alone,
        }
        return {part: bulk.document(it) for part, it in rows.items() if it}

    def begun(
        self, records: Sequence[Record], sizes: dict[str, int], now: datetime
    ) -> Sequence[Mapping[str, Any]]:
        """The rows of new runs. Notes the bytes that each takes."""
        return [self._row(replace(it, revision=it.revision + 1), sizes, now) for it in records]

    def _row(self, record: Record, sizes: dict[str, int], now: datetime) -> dict[str, Any]:
        instance, values = record.instance, self._values
        definition = self._registry.get(instance.saga, instance.version)
        state, document = state_json(definition, instance.state), document_json(record)
        sizes[instance.id] = _size(state) + _size(document)
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
            "revision": record.revision,
            "status": instance.status.value,
            "paused": instance.paused,
            "parked": None,
            "state": state,
            "document": document,
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


def _key(key: StartKey) -> dict[str, str]:
    fingerprint = f"\\x{key.fingerprint.hex()}"
    return {"name": key.name, "key": key.key, "fingerprint": fingerprint, "saga_id": key.saga_id}


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _fence(tables: SagaTables) -> str:
    """The first parts of a group commit: its bound, and its fence."""
    return f"""idle AS (
    SELECT set_config('idle_in_transaction_session_timeout', :idle, true)
), fence AS (
    SELECT l.bucket FROM {in_sql(tables.messaging.outbox_lease)} l
    WHERE l.destination = :leased_as AND (l.bucket, l.epoch) IN (
        SELECT CAST(e ->> 0 AS smallint), CAST(e ->> 1 AS bigint)
        FROM json_array_elements(CAST(:epochs AS json)) e)
    ORDER BY l.bucket FOR KEY SHARE
)"""


def _batch(tables: SagaTables) -> str:
    return (
        f"INSERT INTO {in_sql(tables.saga_batch)} (id, made_at) "
        "VALUES (CAST(:batch AS uuid), clock_timestamp())"
    )


@cache
def opening(tables: SagaTables) -> TextClause:
    """What opens a group commit on PostgreSQL."""
    return text(f"""
WITH {_fence(tables)}, batch AS ({_batch(tables)} ON CONFLICT DO NOTHING RETURNING made_at)
SELECT (SELECT made_at FROM batch) AS made_at, (SELECT array_agg(bucket) FROM fence) AS ours
FROM idle
""")


@cache
def inserting(tables: SagaTables, *, postgres: bool) -> TextualSelect:
    """What writes new runs alone."""
    sql = _sql_of(tables, "begun", postgres=postgres)
    return text(f"{sql} RETURNING id").columns(tables.saga.c.id)


@cache
def part(tables: SagaTables, name: str) -> TextClause | TextualSelect:
    """What writes a part alone, for SQLite."""
    outbox = tables.messaging.outbox
    sql = _sql_of(tables, name, postgres=False)
    if name == "messages":
        return text(f"{sql} RETURNING seq, id").columns(outbox.c.seq, outbox.c.id)
    return text(sql)


@cache
def filling(tables: SagaTables, parts: tuple[str, ...]) -> TextualSelect:
    """What writes these parts on PostgreSQL, within a transaction."""
    named = ", ".join(_named(tables, parts))
    updated = "(SELECT count(*) FROM sagas)" if "sagas" in parts else "0"
    sql = f"WITH {named} SELECT {updated} AS updated, {_numbers(parts)}"
    outbox = tables.messaging.outbox
    return text(sql).columns(column("updated", BigInteger), outbox.c.seq, outbox.c.id)


@cache
def committing(tables: SagaTables, parts: tuple[str, ...]) -> TextualSelect:
    """A whole group commit with these parts on PostgreSQL, in the implicit transaction of one
    statement. It fails where any of it does not fit, since the parts are written all the same."""
    named = ", ".join(_named(tables, parts))
    fits = [
        "(SELECT count(*) FROM fence) = CAST(:fences AS bigint)",
        "abs(extract(epoch FROM clock_timestamp() - CAST(:now AS timestamptz))) <= "
        f"{PRECISION.total_seconds()}",
        *(
            f"(SELECT count(*) FROM {it}) = CAST(:number_{it} AS bigint)"
            for it in _COUNTED
            if it in parts
        ),
    ]
    fits += [
        f"NOT EXISTS (SELECT 1 FROM {in_sql(tables.saga_alias)} WHERE {name} = ANY (ARRAY("
        f"SELECT CAST(value AS uuid) FROM json_array_elements_text(CAST(:{it} AS json)))))"
        for it, name in _WITHOUT_ALIAS.items()
        if it in parts
    ]
    sql = f"""
WITH {_fence(tables)}, batch AS ({_batch(tables)} RETURNING made_at){named and ", "}{named}
SELECT CAST(CASE WHEN {" AND ".join(fits)} THEN '1' ELSE '{_DOES_NOT_FIT}' END AS integer) AS fits,
    (SELECT made_at FROM batch) AS made_at, {_numbers(parts, "idle")}
"""
    outbox = tables.messaging.outbox
    return text(sql).columns(
        column("fits", Integer), column("made_at", UtcDateTime), outbox.c.seq, outbox.c.id
    )


_COUNTED = ("keys", "begun", "sagas")
_WITHOUT_ALIAS = {"unknown": "id", "alone": "saga_id"}
_RETURNING = {**dict.fromkeys(_COUNTED, "1"), "messages": "seq, id"}


def _named(tables: SagaTables, parts: Sequence[str]) -> Iterator[str]:
    for it in parts:
        if it in _WITHOUT_ALIAS:
            continue
        returning = f" RETURNING {_RETURNING[it]}" if it in _RETURNING else ""
        yield f"{it} AS ({_sql_of(tables, it, postgres=True)}{returning})"


def _numbers(parts: Sequence[str], one_row: str = "(VALUES (1)) AS one(n)") -> str:
    """The numbers of the messages, or one row without any, and what is selected from."""
    if "messages" in parts:
        return f"messages.seq, messages.id FROM {one_row} LEFT JOIN messages ON true"
    return f"CAST(NULL AS bigint) AS seq, CAST(NULL AS uuid) AS id FROM {one_row}"


def _sql_of(tables: SagaTables, part: str, *, postgres: bool) -> str:
    outbox = tables.messaging.outbox
    match part:
        case "keys":
            sql = bulk.insert(tables.saga_start_key, _KEY, "keys", postgres=postgres)
            return f"{sql} ON CONFLICT DO NOTHING"
        case "begun":
            sql = bulk.insert(tables.saga, _INSERTED, "begun", postgres=postgres)
            return f"{sql} ON CONFLICT DO NOTHING"
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
            return bulk.insert(outbox, _MESSAGE, "messages", postgres=postgres)
        case "answered" | "applied" if postgres:
            table = outbox if part == "answered" else tables.saga_signal
            return (
                f"DELETE FROM {in_sql(table)} WHERE seq IN (SELECT CAST(value AS bigint) "
                f"FROM json_array_elements_text(CAST(:{part} AS json)))"
            )
        case "answered":
            return (
                f"DELETE FROM {in_sql(outbox)} "
                "WHERE seq IN (SELECT value FROM json_each(:answered))"
            )
        case _:
            raise ValueError(part)
