"""The stores of the orchestrator, on the virtual database.

Each class stands for the one of SQL that it is derived from, method by method, and does what that
one's docstring says. That both lead to the same history is a test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from orchestrator.definition.registry import Registry
from orchestrator.store.commit_statements import StaleRuns
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record, document_json, state_json
from orchestrator.store.run_store import RunStore
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_store import SignalStore
from orchestrator.store.start_store import (
    REFUSED,
    AliasRow,
    Known,
    StartKey,
    StartStore,
    refusal,
)
from orchestrator.testing.virtual.database import Connection, Hold, Told


class VirtualRuns(RunStore):
    """Runs, their definitions, and their messages in the outbox."""

    def __init__(self, registry: Registry, now: Any) -> None:
        self._registry = registry
        self._time = now

    async def next_due(self, connection: Any, shards: Collection[int]) -> datetime | None:
        return min((it.due_at for it in self._with_timers(connection, shards)), default=None)

    async def due(
        self, connection: Any, shards: Collection[int], now: datetime, most: int
    ) -> Sequence[str]:
        due = [it for it in self._with_timers(connection, shards) if it.due_at <= now]
        return [it.instance.id for it in sorted(due, key=lambda it: it.due_at)[:most]]

    def _with_timers(self, connection: Connection, shards: Collection[int]) -> list[Any]:
        tables = connection.tables
        return [
            it
            for it in tables.runs.values()
            if it.due_at is not None
            and it.shard in shards
            and it.instance.id not in tables.parked_runs
        ]

    async def load(self, connection: Any, ids: Collection[str]) -> Sequence[Any]:
        tables = connection.tables
        return [
            self._row(tables.runs[it], tables.parked_runs.get(it))
            for it in sorted(ids)
            if it in tables.runs
        ]

    def _row(self, record: Record, parked: str | None) -> Any:
        instance = record.instance
        saga = self._registry.get(instance.saga, instance.version)
        return SimpleNamespace(
            id=instance.id,
            name=instance.saga,
            version=instance.version,
            key=instance.key,
            state=state_json(saga, instance.state),
            document=document_json(record),
            created_at=instance.created_at,
            begin_at=instance.begin_at,
            paused=instance.paused,
            parked=parked,
            **_kept_beside(record),
        )

    async def take_out(self, connection: Any, records: Sequence[Record]) -> None:
        runs = connection.tables.runs
        for record in records:
            there = runs.get(record.instance.id)
            if there is None or there.revision != record.revision:
                raise StaleRuns(record.instance.id)
            connection.drop(runs, record.instance.id)

    async def park(self, connection: Any, saga_id: str, reason: str) -> None:
        connection.put(connection.tables.parked_runs, saga_id, reason)

    async def unpark(self, connection: Any, shards: Collection[int]) -> None:
        tables = connection.tables
        for saga_id in [it for it in tables.parked_runs if shard_of(it) in shards]:
            connection.drop(tables.parked_runs, saga_id)

    async def present(
        self, connection: Any, messages: Sequence[OutgoingMessage], answered: Collection[int]
    ) -> frozenset[str]:
        tables = connection.tables
        ids = {it.envelope.id for it in messages}
        return frozenset(
            row.envelope.id
            for table in (tables.outbox, tables.parked)
            for row in table.values()
            if row.envelope.id in ids and row.seq not in answered
        )

    async def forget_dead_letters(
        self, connection: Any, messages: Sequence[OutgoingMessage]
    ) -> None:
        dead = connection.tables.dead
        for id in [it.envelope.id for it in messages if it.envelope.id in dead]:
            connection.drop(dead, id)

    async def withdraw(
        self, connection: Any, ids: Collection[str], shards: Collection[int]
    ) -> None:
        tables = connection.tables
        for table in (tables.outbox, tables.parked):
            for seq in [it.seq for it in table.values() if it.envelope.id in ids]:
                connection.drop(table, seq)
        waiting = {
            (row.destination, row.bucket, row.envelope.key)
            for table in (tables.outbox, tables.parked)
            for row in table.values()
        }
        for key, it in [(key, it) for key, it in tables.held.items() if it.head_id in ids]:
            if key in waiting:
                connection.put(tables.held, key, Hold(it.head_id, it.attempts, self._time()))
            else:
                connection.drop(tables.held, key)

    async def now(self, connection: Any) -> datetime:
        found: datetime = self._time()
        return found


class VirtualStarts(StartStore):
    """Idempotency keys, and the starts that began no run."""

    def __init__(self) -> None:
        pass

    async def claim_keys(
        self, connection: Any, keys: Sequence[StartKey]
    ) -> Mapping[tuple[str, str], StartKey]:
        stored = connection.tables.keys
        for key in keys:
            if (key.name, key.key) not in stored:
                connection.put(stored, (key.name, key.key), key)
        return {(it.name, it.key): stored[it.name, it.key] for it in keys}

    async def release_keys(self, connection: Any, saga_ids: Collection[str]) -> None:
        stored = connection.tables.keys
        for name in [it for it, key in stored.items() if key.saga_id in saga_ids]:
            connection.drop(stored, name)

    async def existing(self, connection: Any, ids: Collection[str]) -> Mapping[str, Known]:
        tables = connection.tables
        found = {}
        for id in ids:
            if id in tables.runs:
                run = tables.runs[id]
                found[id] = _known(run, run.start_id, run.originator, run.fingerprint)
            elif id in tables.aliases:
                alias = tables.aliases[id]
                of_start = [alias[it] for it in ("start_id", "originator", "fingerprint")]
                if alias.get("ended") is not None:
                    start_id, originator, fingerprint = of_start
                    ended, name = alias["ended"], alias["name"]
                    found[id] = Known(start_id, ended, None, name, originator, fingerprint)
                elif alias["saga_id"] is None:
                    start_id, originator, fingerprint = of_start
                    cause = refusal(alias["reason"])
                    found[id] = Known(start_id, REFUSED, cause, None, originator, fingerprint)
                else:
                    found[id] = _known(tables.runs[alias["saga_id"]], *of_start)
        return found

    async def removed_below(self, connection: Any) -> str | None:
        remover = connection.tables.remover.get(0)
        return None if remover is None else remover.below

    async def forget_history(self, connection: Any, saga_id: str) -> None:
        history = connection.tables.history
        for line in [it for it in history if it[0] == saga_id]:
            connection.drop(history, line)

    async def active(self, connection: Any, name: str, key: str) -> str | None:
        found: str | None = connection.tables.active.get((name, key))
        return found

    async def add_alias(self, connection: Any, alias: str, **values: Any) -> None:
        if alias not in connection.tables.aliases:
            connection.put(connection.tables.aliases, alias, values)

    async def aliases(self, connection: Any, saga_ids: Collection[str]) -> Sequence[Any]:
        return [
            AliasRow(
                values["saga_id"],
                alias,
                values["originator"],
                values["trace"],
                values["start_id"],
            )
            for alias, values in connection.tables.aliases.items()
            if values["saga_id"] in saga_ids
        ]


class VirtualSignals(SignalStore):
    """The signals of runs."""

    def __init__(self) -> None:
        pass

    async def waiting(self, connection: Any, shards: Collection[int], most: int) -> Sequence[Any]:
        tables = connection.tables
        found = [
            it
            for it in tables.signals.values()
            if it.answer is None and it.shard in shards and it.saga_id not in tables.parked_runs
        ]
        return sorted(found, key=lambda it: it.seq)[:most]

    async def add(self, connection: Any, signals: Sequence[tuple[str, int, str, str]]) -> None:
        for saga_id, shard, kind, payload in signals:
            seq = connection.next_seq()
            connection.put(connection.tables.signals, seq, Told(seq, shard, saga_id, kind, payload))

    async def remove(self, connection: Any, seqs: Sequence[int]) -> None:
        for seq in seqs:
            connection.drop(connection.tables.signals, seq)

    async def answer(self, connection: Any, seq: int, answer: str) -> None:
        # No node fetches the answer: the request is over.
        connection.drop(connection.tables.signals, seq)


def _known(
    record: Record, start_id: str | None, originator: str | None, fingerprint: str | None
) -> Known:
    run = record.instance
    ended, cause = (None, None) if run.ended is None else (run.ended.value, run.cause)
    return Known(start_id, ended, cause, run.saga, originator, fingerprint)


def _kept_beside(record: Record) -> dict[str, Any]:
    """What a row has beside the instance and its document."""
    names = [it for it in Record.__slots__ if it not in ("instance", "timers")]
    return {name: getattr(record, name) for name in names}
