"""The epochs of leases in a restored database, raised above all that were ever given."""

from __future__ import annotations

from sqlalchemy import update

from orchestrator.cli.restored.opening import Opened

MORE = 1_000_000
"""More takeovers of one lease than there can have been in the time that was lost."""


async def raise_epochs(restored: Opened) -> int:
    """Raise the epoch of every lease, so that none comes round to the epoch of a process from
    before the restore; the lease of retention is free then. Returns the number of leases."""
    outbox_lease, retention = restored.tables.messaging.outbox_lease, restored.tables.saga_retention
    async with restored.database.engine.begin() as connection:
        result = await connection.execute(
            update(outbox_lease).values(epoch=outbox_lease.c.epoch + MORE, owner=None)
        )
        if not restored.has_retention:
            return result.rowcount
        of_retention = await connection.execute(
            update(retention).values(
                epoch=retention.c.epoch + MORE,
                owner=None,
                expires_at=restored.clock.time,
            )
        )
        return result.rowcount + of_retention.rowcount
