"""The statements of a group commit, on the virtual database: see `saga_tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from orchestrator.definition.registry import Registry
from orchestrator.store.commit_parts import PRECISION, Writes
from orchestrator.store.commit_statements import CommitStatements, DoesNotFit, StaleRuns
from orchestrator.store.records import Record, active_key
from orchestrator.testing.virtual.database import Message

_NO_BYTES = 0
"""The size of a run here, where values are kept as they are: no limit in bytes is ever met."""


class VirtualCommitStatements(CommitStatements):
    """The statements that open and fill group commits."""

    def __init__(self, registry: Registry, now: Any, *, fit_in_one: bool) -> None:
        self._registry = registry
        self._time = now
        self._fit_in_one = fit_in_one

    async def open(
        self, connection: Any, batch: str, epochs: Mapping[int, int], *, idle: float
    ) -> tuple[datetime | None, frozenset[int]]:
        assert batch not in connection.tables.batches
        connection.put(connection.tables.batches, batch, True)
        return self._time(), await self.fence(connection, epochs)

    async def fence(self, connection: Any, epochs: Mapping[int, int]) -> frozenset[int]:
        leases = connection.tables.leases
        return frozenset(
            it for it, epoch in epochs.items() if it in leases and leases[it].epoch == epoch
        )

    async def was_committed(self, connection: Any, batch: str) -> bool:
        batches = connection.tables.batches
        if batch not in batches:
            connection.put(batches, batch, False)
        found: bool = batches[batch]
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
            if record.instance.ended is not None and record.instance.id not in tables.ended:
                connection.put(tables.ended, record.instance.id, now)
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

    @property
    def fit_in_one(self) -> bool:
        return self._fit_in_one

    async def commit_at_once(
        self,
        connection: Any,
        batch: str,
        epochs: Mapping[int, int],
        writes: Writes,
        now: datetime,
        *,
        idle: float,
    ) -> tuple[datetime, Mapping[str, int]]:
        with connection.committing():
            tables = connection.tables
            is_late = abs(self._time() - now) > PRECISION
            is_known = any(
                alias in writes.unknown or it["saga_id"] in writes.alone
                for alias, it in tables.aliases.items()
            )
            keys = {(it.name, it.key): it for it in writes.keys}
            is_known |= len(keys) < len(writes.keys) or not keys.keys().isdisjoint(tables.keys)
            ours = await self.fence(connection, epochs)
            if batch in tables.batches or len(ours) < len(epochs) or is_late or is_known:
                raise DoesNotFit
            connection.put(tables.batches, batch, True)
            try:
                seqs = await self.write(connection, writes, now)
            except (StaleRuns, IntegrityError) as error:
                raise DoesNotFit from error
            begun = await self.insert(connection, writes.begun, now)
            if len(begun) < len(writes.begun):
                raise DoesNotFit
            writes.sizes |= begun
            for named, key in keys.items():
                connection.put(tables.keys, named, key)
            for seq in writes.applied:
                connection.drop(tables.signals, seq)
            return self._time(), seqs

    def _is_active(self, record: Record) -> bool:
        instance = record.instance
        definition = self._registry.get(instance.saga, instance.version)
        return active_key(definition, instance) is not None
