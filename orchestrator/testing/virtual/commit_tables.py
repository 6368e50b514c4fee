"""The statements of a group commit, on the virtual database: see `saga_tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from orchestrator.definition.registry import Registry
from orchestrator.store.commit_statements import CommitStatements, StaleRuns, Writes
from orchestrator.store.records import Record, active_key
from orchestrator.testing.virtual.database import Message

_NO_BYTES = 0
"""The size of a run here, where values are kept as they are: no limit in bytes is ever met."""


class VirtualCommitStatements(CommitStatements):
    """The statements that open and fill group commits."""

    def __init__(self, registry: Registry, now: Any) -> None:
        self._registry = registry
        self._time = now

    async def open(
        self, connection: Any, batch: str, epochs: Mapping[int, int], *, idle: float
    ) -> tuple[datetime | None, frozenset[int]]:
        ours = await self.fence(connection, epochs)
        return await self.write_batch(connection, batch), ours

    async def fence(self, connection: Any, epochs: Mapping[int, int]) -> frozenset[int]:
        leases = connection.tables.leases
        return frozenset(
            it for it, epoch in epochs.items() if it in leases and leases[it].epoch == epoch
        )

    async def write_batch(self, connection: Any, batch: str) -> datetime | None:
        if batch in connection.tables.batches:
            return None
        connection.put(connection.tables.batches, batch, True)
        found: datetime = self._time()
        return found

    async def insert(
        self, connection: Any, records: Sequence[Record], now: datetime
    ) -> Mapping[str, int]:
        tables = connection.tables
        written = {}
        for record in records:
            instance = record.instance
            key = (instance.saga, instance.key)
            wants_to_be_alone = self._is_active(record)
            if instance.id in tables.runs or (wants_to_be_alone and key in tables.active):
                continue
            stored = replace(record, revision=record.revision + 1)
            connection.put(tables.runs, instance.id, stored)
            if wants_to_be_alone:
                connection.put(tables.active, key, instance.id)
            written[instance.id] = _NO_BYTES
        return written

    async def write(self, connection: Any, writes: Writes, now: datetime) -> Mapping[str, int]:
        tables = connection.tables
        stored = [tables.runs.get(it.instance.id) for it in writes.records]
        for record, there in zip(writes.records, stored, strict=True):
            if there is None or there.revision != record.revision:
                raise StaleRuns(record.instance.id)
        for record in writes.records:
            writes.sizes[record.instance.id] = _NO_BYTES
            connection.put(
                tables.runs, record.instance.id, replace(record, revision=record.revision + 1)
            )
            key = (record.instance.saga, record.instance.key)
            if not self._is_active(record) and tables.active.get(key) == record.instance.id:
                connection.drop(tables.active, key)
        for saga_id, number, entry in writes.history:
            if (saga_id, number) in tables.history:
                raise IntegrityError("history", None, ValueError(f"{saga_id} has line {number}"))
            connection.put(tables.history, (saga_id, number), entry)
        for seq in writes.answered:
            connection.drop(tables.outbox, seq)
        seqs = {}
        for message in writes.messages:
            seq = connection.next_seq()
            row = Message(seq, message.destination, message.bucket, message.envelope)
            connection.put(tables.outbox, seq, row)
            seqs[message.envelope.id] = seq
        return seqs

    def _is_active(self, record: Record) -> bool:
        instance = record.instance
        definition = self._registry.get(instance.saga, instance.version)
        return active_key(definition, instance) is not None
