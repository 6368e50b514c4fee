"""The SQL of leases, by which relays share the buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, tuple_, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.time import DatabaseClock
from outbox.tables import Tables

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class LeaseStore(DatabaseClock):
    """Leases and live relays, in one database. Each method is one step of the caller's
    transaction."""

    def __init__(self, tables: Tables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def announce(
        self, connection: AsyncConnection, owner: str, destinations: Sequence[str], ttl: timedelta
    ) -> None:
        """Announce that the relay `owner` lives and serves these, and make sure their leases
        exist."""
        outbox_relay = self._tables.outbox_relay
        expires = self._in(ttl)
        for destination in destinations:
            await connection.execute(
                self._insert(outbox_relay)
                .values(owner=owner, destination=destination, expires_at=expires)
                .on_conflict_do_update(
                    index_elements=["owner", "destination"], set_={"expires_at": expires}
                )
            )
        # After an outage several relays do this at the same time. One whose row another has just
        # announced is not over, and to wait for it would be to wait crosswise.
        place = tuple_(outbox_relay.c.owner, outbox_relay.c.destination)
        over = (
            select(outbox_relay.c.owner, outbox_relay.c.destination)
            .where(outbox_relay.c.expires_at < self._now)
            .with_for_update(skip_locked=True)
        )
        await connection.execute(delete(outbox_relay).where(place.in_(over)))

    async def make_leases(
        self, connection: AsyncConnection, destination: str, buckets: Sequence[int]
    ) -> None:
        """Make the leases of a destination that are not there yet, free to be claimed."""
        outbox_lease = self._tables.outbox_lease
        present = select(outbox_lease.c.bucket).where(outbox_lease.c.destination == destination)
        missing = set(buckets) - set((await connection.scalars(present)).all())
        if missing:
            # Expired long ago, so that a claim may take them beyond its share.
            rows = [
                {"destination": destination, "bucket": bucket, "epoch": 0, "expires_at": _LONG_AGO}
                for bucket in sorted(missing)
            ]
            await connection.execute(self._insert(outbox_lease).on_conflict_do_nothing(), rows)

    async def relays_of(self, connection: AsyncConnection, destination: str, ttl: timedelta) -> int:
        """The number of relays that serve that destination. One counts if it announced itself
        within the last half `ttl`; a live relay does so every third."""
        outbox_relay = self._tables.outbox_relay
        statement = select(func.count()).where(
            outbox_relay.c.destination == destination,
            outbox_relay.c.expires_at >= self._in(ttl / 2),
        )
        return int((await connection.execute(statement)).scalar_one())

    async def renew(
        self, connection: AsyncConnection, owner: str, ttl: timedelta
    ) -> dict[str, dict[int, int]]:
        """Prolong the leases of `owner` that have not expired: destination -> bucket -> epoch.

        It touches `expires_at` alone, so a transaction that holds a fence does not stop it.
        """
        outbox_lease = self._tables.outbox_lease
        statement = (
            update(outbox_lease)
            .where(outbox_lease.c.owner == owner, outbox_lease.c.expires_at > self._now)
            .values(expires_at=self._in(ttl))
            .returning(outbox_lease.c.destination, outbox_lease.c.bucket, outbox_lease.c.epoch)
        )
        held: dict[str, dict[int, int]] = {}
        for destination, bucket, epoch in await connection.execute(statement):
            held.setdefault(destination, {})[bucket] = epoch
        return held

    async def claim(
        self,
        connection: AsyncConnection,
        owner: str,
        destination: str,
        *,
        most: int,
        ttl: timedelta,
    ) -> dict[int, int]:
        """Take up to `most` expired leases: bucket -> epoch. Beyond that number, those that no
        owner took for a whole `ttl`. Each gets a new epoch, also where it was the owner's own."""
        outbox_lease = self._tables.outbox_lease
        free = (
            select(outbox_lease.c.bucket, outbox_lease.c.expires_at)
            .where(outbox_lease.c.destination == destination)
            .where(outbox_lease.c.expires_at <= self._now)
            .order_by(outbox_lease.c.expires_at, func.random())
            # Not FOR UPDATE: a fence of the last owner must not hide the bucket from a claim.
            .with_for_update(skip_locked=True, key_share=True)
        )
        abandoned = self._in(-ttl)
        found = [
            (row.bucket, row.abandoned)
            for row in await connection.execute(
                free.add_columns((outbox_lease.c.expires_at <= abandoned).label("abandoned"))
            )
        ]
        taken = [
            bucket
            for position, (bucket, is_abandoned) in enumerate(found)
            if position < most or is_abandoned
        ]
        if not taken:
            return {}
        statement = (
            update(outbox_lease)
            .where(outbox_lease.c.destination == destination, outbox_lease.c.bucket.in_(taken))
            .values(owner=owner, epoch=outbox_lease.c.epoch + 1, expires_at=self._in(ttl))
            .returning(outbox_lease.c.bucket, outbox_lease.c.epoch)
        )
        return {bucket: epoch for bucket, epoch in await connection.execute(statement)}

    async def give_back(
        self, connection: AsyncConnection, owner: str, destination: str, buckets: Sequence[int]
    ) -> None:
        """Let these leases of `owner` expire now."""
        outbox_lease = self._tables.outbox_lease
        await connection.execute(
            update(outbox_lease)
            .where(
                outbox_lease.c.owner == owner,
                outbox_lease.c.destination == destination,
                outbox_lease.c.bucket.in_(buckets),
            )
            .values(expires_at=self._now)
        )

    async def owners(self, connection: AsyncConnection) -> frozenset[str]:
        """The names of owners that hold unexpired leases, or have announced themselves."""
        tables = self._tables
        outbox_lease, outbox_relay = tables.outbox_lease, tables.outbox_relay
        holders = select(outbox_lease.c.owner).where(outbox_lease.c.expires_at > self._now)
        statement = union(holders, select(outbox_relay.c.owner))
        return frozenset(owner for owner in await connection.scalars(statement) if owner)

    async def leave(self, connection: AsyncConnection, owner: str) -> None:
        """Give all leases of `owner` back, and no longer count it among the living."""
        tables = self._tables
        outbox_lease, outbox_relay = tables.outbox_lease, tables.outbox_relay
        await connection.execute(
            update(outbox_lease).where(outbox_lease.c.owner == owner).values(expires_at=self._now)
        )
        await connection.execute(delete(outbox_relay).where(outbox_relay.c.owner == owner))
