"""The statements of the orchestrator and of its relay, on the virtual database.

Each class stands for the one of SQL that it is derived from, method by method, and does what that
one's docstring says. That both lead to the same history is a test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy.exc import IntegrityError

from orchestrator.postbox import Letter
from orchestrator.records import Record, document_json, shard_of, state_json
from orchestrator.registry import Registry
from orchestrator.shards import LEASED_AS
from orchestrator.store import AliasRow, SagaStore, StartKey
from orchestrator.testing.simulating.database import Connection, Hold, Lease, Message, Told
from orchestrator.writing import StaleRuns, Writes, Writing
from outbox.deliveries import Pending
from outbox.hold_store import HoldStore
from outbox.lease_store import LeaseStore
from outbox.leases import BUCKETS_PER_LANE
from outbox.store import Fetched, HeldKey, Store


class VirtualSagas(SagaStore):
    """Runs, their history, and what they were told."""

    def __init__(self, registry: Registry, now: Any) -> None:
        self._registry = registry
        self._time = now

    async def signals(self, connection: Any, shards: Collection[int], most: int) -> Sequence[Any]:
        tables = connection.tables
        found = [
            it
            for it in tables.signals.values()
            if it.answer is None and it.shard in shards and it.saga_id not in tables.parked_runs
        ]
        return sorted(found, key=lambda it: it.seq)[:most]

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
            paused=instance.paused,
            parked=parked,
            **_kept_beside(record),
        )

    async def park(self, connection: Any, saga_id: str, reason: str) -> None:
        connection.put(connection.tables.parked_runs, saga_id, reason)

    async def unpark(self, connection: Any, shards: Collection[int]) -> None:
        tables = connection.tables
        for saga_id in [it for it in tables.parked_runs if shard_of(it) in shards]:
            connection.drop(tables.parked_runs, saga_id)

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

    async def existing(self, connection: Any, ids: Collection[str]) -> frozenset[str]:
        tables = connection.tables
        return frozenset(it for it in ids if it in tables.runs or it in tables.aliases)

    async def active(self, connection: Any, name: str, key: str) -> str | None:
        found: str | None = connection.tables.active.get((name, key))
        return found

    async def add_alias(
        self,
        connection: Any,
        alias: str,
        **values: Any,
    ) -> None:
        if alias not in connection.tables.aliases:
            connection.put(connection.tables.aliases, alias, values)

    async def aliases(self, connection: Any, saga_ids: Collection[str]) -> Sequence[Any]:
        return [
            AliasRow(values["saga_id"], alias, values["originator"], values["trace"])
            for alias, values in connection.tables.aliases.items()
            if values["saga_id"] in saga_ids
        ]

    async def present(
        self, connection: Any, letters: Sequence[Letter], answered: Collection[int]
    ) -> frozenset[str]:
        tables = connection.tables
        ids = {it.envelope.id for it in letters}
        for dead in [it for it in tables.dead if it in ids]:
            connection.drop(tables.dead, dead)
        return frozenset(
            row.envelope.id
            for table in (tables.outbox, tables.parked)
            for row in table.values()
            if row.envelope.id in ids and row.seq not in answered
        )

    async def withdraw(
        self, connection: Any, ids: Collection[str], shards: Collection[int]
    ) -> None:
        tables = connection.tables
        for table in (tables.outbox, tables.parked):
            for seq in [it.seq for it in table.values() if it.envelope.id in ids]:
                connection.drop(table, seq)
        for key in [key for key, it in tables.held.items() if it.head_id in ids]:
            connection.drop(tables.held, key)

    async def add_signals(
        self, connection: Any, signals: Sequence[tuple[str, int, str, str]]
    ) -> None:
        for saga_id, shard, kind, payload in signals:
            seq = connection.next_seq()
            connection.put(connection.tables.signals, seq, Told(seq, shard, saga_id, kind, payload))

    async def remove_signals(self, connection: Any, seqs: Sequence[int]) -> None:
        for seq in seqs:
            connection.drop(connection.tables.signals, seq)

    async def answer_signal(self, connection: Any, seq: int, answer: str) -> None:
        # Nobody comes for the answer: what was asked for is over.
        connection.drop(connection.tables.signals, seq)

    async def now(self, connection: Any) -> datetime:
        found: datetime = self._time()
        return found


def _kept_beside(record: Record) -> dict[str, Any]:
    """What a row has beside the instance and its document."""
    names = [it for it in Record.__slots__ if it not in ("instance", "timers")]
    return {name: getattr(record, name) for name in names}


class VirtualWriting(Writing):
    """Opens and fills group commits."""

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
    ) -> frozenset[str]:
        tables = connection.tables
        written = []
        for record in records:
            instance = record.instance
            key = (instance.saga, instance.key)
            wants_to_be_alone = self._is_active(record)
            if instance.id in tables.runs or (wants_to_be_alone and key in tables.active):
                continue
            connection.put(tables.runs, instance.id, _with_revision(record, 1))
            if wants_to_be_alone:
                connection.put(tables.active, key, instance.id)
            written.append(instance.id)
        return frozenset(written)

    async def write(self, connection: Any, writes: Writes, now: datetime) -> Mapping[str, int]:
        tables = connection.tables
        stored = [tables.runs.get(it.instance.id) for it in writes.records]
        for record, there in zip(writes.records, stored, strict=True):
            if there is None or there.revision != record.revision:
                raise StaleRuns(record.instance.id)
        for record in writes.records:
            connection.put(
                tables.runs, record.instance.id, _with_revision(record, record.revision + 1)
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
        for letter in writes.letters:
            seq = connection.next_seq()
            row = Message(seq, letter.destination, letter.bucket, letter.envelope)
            connection.put(tables.outbox, seq, row)
            seqs[letter.envelope.id] = seq
        return seqs

    def _is_active(self, record: Record) -> bool:
        instance = record.instance
        definition = self._registry.get(instance.saga, instance.version)
        return definition.one_active and instance.ended is None


def _with_revision(record: Record, revision: int) -> Record:
    values = {name: getattr(record, name) for name in Record.__slots__}
    return Record(**{**values, "revision": revision})


class VirtualMessages(Store):
    """The messages' way through the outbox."""

    def __init__(self, now: Any) -> None:
        self._time = now

    async def fence(
        self, connection: Any, destination: str, epochs: Mapping[int, int]
    ) -> frozenset[int]:
        leases = connection.tables.leases
        return frozenset(
            bucket
            for bucket, epoch in epochs.items()
            if (lease := leases.get(bucket % BUCKETS_PER_LANE)) is not None and lease.epoch == epoch
        )

    async def limit_idleness(self, connection: Any, seconds: float) -> None:
        pass

    async def fetch(
        self,
        connection: Any,
        destination: str,
        floors: Mapping[int, int],
        *,
        per_bucket: int,
        most: int,
    ) -> Fetched:
        tables = connection.tables
        rows: dict[int, list[Message]] = {bucket: [] for bucket in floors}
        for row in tables.outbox.values():
            if (
                row.destination == destination
                and row.bucket in floors
                and row.seq > floors[row.bucket]
                and (destination, row.bucket, row.envelope.key) not in tables.held
            ):
                rows[row.bucket].append(row)
        found: list[Pending] = []
        exhausted = set()
        for bucket, each in rows.items():
            each.sort(key=lambda it: it.seq)
            taken = each[: min(per_bucket, most - len(found))]
            if len(taken) < per_bucket:
                exhausted.add(bucket)
            found += [Pending(it.seq, bucket, it.envelope) for it in taken]
        return Fetched(found, (), frozenset(exhausted if len(found) < most else ()))

    async def settle(self, connection: Any, seqs: Sequence[int]) -> None:
        for seq in seqs:
            connection.drop(connection.tables.outbox, seq)

    async def bury(
        self, connection: Any, destination: str, seq: int, *, attempts: int, reason: str
    ) -> None:
        row = connection.tables.outbox.get(seq)
        if row is not None:
            connection.put(connection.tables.dead, row.envelope.id, row)
            connection.drop(connection.tables.outbox, seq)


class VirtualHolds(HoldStore):
    """Keys that rest, and parked messages."""

    def __init__(self, now: Any) -> None:
        self._time = now

    async def due(
        self, connection: Any, destination: str, buckets: Sequence[int], most: int
    ) -> list[HeldKey]:
        now = self._time()
        due = [
            (it.next_at, HeldKey(bucket, key, it.head_id, it.attempts))
            for (to, bucket, key), it in connection.tables.held.items()
            if to == destination and bucket in buckets and it.next_at <= now
        ]
        return [it for _, it in sorted(due, key=lambda it: it[0])[:most]]

    async def any(self, connection: Any, destination: str, buckets: Sequence[int]) -> bool:
        return any(
            to == destination and bucket in buckets for to, bucket, _ in connection.tables.held
        )

    async def begin_trials(
        self, connection: Any, destination: str, trials: Sequence[tuple[HeldKey, float]]
    ) -> None:
        tables = connection.tables
        for key, pause in trials:
            at = self._time() + timedelta(seconds=pause)
            where = (destination, key.bucket, key.key)
            if where in tables.held:
                head_id = tables.held[where].head_id
                connection.put(tables.held, where, Hold(head_id, key.attempts + 1, at))
            self._move(connection, tables.parked, tables.outbox, *where)

    def _move(
        self,
        connection: Connection,
        source: dict[int, Message],
        target: dict[int, Message],
        destination: str,
        bucket: int,
        key: str,
    ) -> None:
        for row in [
            it
            for it in source.values()
            if (it.destination, it.bucket, it.envelope.key) == (destination, bucket, key)
        ]:
            connection.drop(source, row.seq)
            connection.put(target, row.seq, row)

    async def fetch(self, connection: Any, destination: str, keys: Sequence[HeldKey]) -> Fetched:
        found = []
        for key in keys:
            rows = [
                it
                for it in connection.tables.outbox.values()
                if (it.destination, it.bucket, it.envelope.key)
                == (destination, key.bucket, key.key)
            ]
            if rows:
                row = min(rows, key=lambda it: it.seq)
                attempts = key.attempts if key.head_id == row.envelope.id else 0
                found.append(Pending(row.seq, row.bucket, row.envelope, attempts, held=True))
        return Fetched(sorted(found, key=lambda it: it.seq), (), frozenset())

    async def next_due(
        self, connection: Any, destination: str, buckets: Sequence[int]
    ) -> float | None:
        due = min(
            (
                it.next_at
                for (to, bucket, _), it in connection.tables.held.items()
                if to == destination and bucket in buckets
            ),
            default=None,
        )
        return None if due is None else max(0.0, (due - self._time()).total_seconds())

    async def buckets(self, connection: Any, destination: str) -> frozenset[int]:
        return frozenset(bucket for to, bucket, _ in connection.tables.held if to == destination)

    async def free(
        self, connection: Any, destination: str, keys: Sequence[tuple[int, str]]
    ) -> None:
        for bucket, key in keys:
            connection.drop(connection.tables.held, (destination, bucket, key))

    async def undo_trial(self, connection: Any, destination: str, message: Pending) -> None:
        tables = connection.tables
        where = (destination, *message.key)
        if where in tables.held:
            head_id = tables.held[where].head_id
            connection.put(tables.held, where, Hold(head_id, message.attempts, self._time()))

    async def hold(
        self,
        connection: Any,
        destination: str,
        message: Pending,
        *,
        attempts: int,
        delay: float,
        error: str,
        park: bool,
    ) -> None:
        tables = connection.tables
        where = (destination, *message.key)
        at = self._time() + timedelta(seconds=delay)
        connection.put(tables.held, where, Hold(message.envelope.id, attempts, at))
        if park:
            self._move(connection, tables.outbox, tables.parked, *where)


class VirtualLeases(LeaseStore):
    """Who may work on which shard."""

    def __init__(self, now: Any) -> None:
        self._time = now

    async def announce(
        self, connection: Any, owner: str, destinations: Sequence[str], ttl: timedelta
    ) -> None:
        tables, now = connection.tables, self._time()
        connection.put(tables.nodes, owner, now + ttl)
        for gone in [it for it, expires in tables.nodes.items() if expires < now]:
            connection.drop(tables.nodes, gone)

    async def make_leases(self, connection: Any, destination: str, buckets: Sequence[int]) -> None:
        for bucket in buckets:
            if bucket not in connection.tables.leases:
                long_ago = self._time() - timedelta(days=10_000)
                connection.put(connection.tables.leases, bucket, Lease(None, 0, long_ago))

    async def relays_of(self, connection: Any, destination: str, ttl: timedelta) -> int:
        soon = self._time() + ttl / 2
        return sum(expires >= soon for expires in connection.tables.nodes.values())

    async def renew(self, connection: Any, owner: str, ttl: timedelta) -> dict[str, dict[int, int]]:
        now = self._time()
        held = {}
        leases = connection.tables.leases
        for bucket, it in list(leases.items()):
            if it.owner == owner and it.expires_at > now:
                connection.put(leases, bucket, Lease(owner, it.epoch, now + ttl))
                held[bucket] = it.epoch
        return {LEASED_AS: held} if held else {}

    async def claim(
        self, connection: Any, owner: str, destination: str, *, most: int, ttl: timedelta
    ) -> dict[int, int]:
        now = self._time()
        leases = connection.tables.leases
        free = [
            (it.expires_at, bucket, it.epoch)
            for bucket, it in leases.items()
            if it.expires_at <= now
        ]
        taken = {}
        for position, (expires_at, bucket, epoch) in enumerate(sorted(free)):
            if position < most or expires_at <= now - ttl:
                connection.put(leases, bucket, Lease(owner, epoch + 1, now + ttl))
                taken[bucket] = epoch + 1
        return taken

    async def give_back(
        self, connection: Any, owner: str, destination: str, buckets: Sequence[int]
    ) -> None:
        leases = connection.tables.leases
        for bucket in buckets:
            it = leases.get(bucket)
            if it is not None and it.owner == owner:
                connection.put(leases, bucket, Lease(owner, it.epoch, self._time()))

    async def owners(self, connection: Any) -> frozenset[str]:
        now = self._time()
        holders = {it.owner for it in connection.tables.leases.values() if it.expires_at > now}
        return frozenset(it for it in (*holders, *connection.tables.nodes) if it)

    async def leave(self, connection: Any, owner: str) -> None:
        leases = connection.tables.leases
        for bucket, it in list(leases.items()):
            if it.owner == owner:
                connection.put(leases, bucket, Lease(owner, it.epoch, self._time()))
        connection.drop(connection.tables.nodes, owner)
