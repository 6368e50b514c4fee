"""The statements of the relay, on the virtual database.

Each class stands for the one of SQL that it is derived from, method by method, and does what that
one's docstring says. That both lead to the same history is a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from orchestrator.store.sharding import LEASED_AS, shard_of_bucket
from orchestrator.testing.virtual.database import Connection, Hold, Lease, Message
from outbox.coordination.lease_store import LeaseStore
from outbox.lanes import BLOCKED
from outbox.relay.hold_store import HoldStore
from outbox.relay.message_store import Fetched, HeldKey, Store, read_to_the_end
from outbox.relay.verdicts import Pending, size_of


class VirtualMessages(Store):
    """The messages of the outbox."""

    def __init__(self, now: Any) -> None:
        self._time = now

    async def fence(
        self, connection: Any, destination: str, epochs: Mapping[int, int]
    ) -> frozenset[int]:
        leases = connection.tables.leases
        return frozenset(
            bucket
            for bucket, epoch in epochs.items()
            if (lease := leases.get(shard_of_bucket(bucket))) is not None and lease.epoch == epoch
        )

    async def limit_idleness(self, connection: Any, seconds: float) -> None:
        pass

    async def fetch(
        self,
        connection: Any,
        destination: str,
        floors: Mapping[int, int],
        *,
        shares: Mapping[int, int],
        most: int,
        most_bytes: int,
    ) -> Fetched:
        tables = connection.tables
        rows: dict[int, list[Message]] = {}
        for row in tables.outbox.values():
            if (
                row.destination == destination
                and row.bucket in floors
                and row.seq > floors[row.bucket]
                and (destination, row.bucket, row.envelope.key) not in tables.held
            ):
                rows.setdefault(row.bucket, []).append(row)
        found: list[Pending] = []
        size = 0
        for bucket in [it for it in floors if it in rows]:
            each = sorted(rows[bucket], key=lambda it: it.seq)
            for row in each[: min(shares[bucket], most - len(found))]:
                if size < most_bytes:
                    found.append(Pending(row.seq, bucket, row.envelope))
                    size += size_of(found[-1])
        is_cut = len(found) >= most or size >= most_bytes
        buckets = [message.bucket for message in found]
        return Fetched(found, (), read_to_the_end(floors, shares, buckets, is_cut=is_cut))

    async def settle(self, connection: Any, seqs: Sequence[int]) -> None:
        for seq in seqs:
            connection.drop(connection.tables.outbox, seq)

    async def bury(
        self, connection: Any, destination: str, seq: int, *, attempts: int, reason: str
    ) -> None:
        row = connection.tables.outbox.get(seq)
        if row is not None:
            connection.put(connection.tables.dead, row.envelope.id, row)
            connection.put(connection.tables.died, row.envelope.id, self._time())
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
        head: HeldKey,
        *,
        delay: float | None,
        error: str,
        park: bool,
    ) -> None:
        tables = connection.tables
        where = (destination, *head.whole)
        at = BLOCKED if delay is None else self._time() + timedelta(seconds=delay)
        connection.put(tables.held, where, Hold(head.head_id, head.attempts, at))
        if park:
            self._move(connection, tables.outbox, tables.parked, *where)


class VirtualLeases(LeaseStore):
    """The leases of shards."""

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
        nobodys = Lease(None, 0, self._time() - timedelta(days=10_000))
        for bucket in buckets:
            if bucket not in connection.tables.leases:
                connection.put(connection.tables.leases, bucket, nobodys)

    async def relays_of(self, connection: Any, destination: str, ttl: timedelta) -> int:
        soon = self._time() + ttl / 2
        return sum(expires >= soon for expires in connection.tables.nodes.values())

    async def renew(self, connection: Any, owner: str, ttl: timedelta) -> dict[str, dict[int, int]]:
        now = self._time()
        held = {}
        renewed: dict[int, Lease] = {}
        leases = connection.tables.leases
        for bucket, it in list(leases.items()):
            if it.owner == owner and it.expires_at > now:
                if it.epoch not in renewed:
                    renewed[it.epoch] = Lease(owner, it.epoch, now + ttl)
                connection.put(leases, bucket, renewed[it.epoch])
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
