"""Who sends from an outbox: the relays, or an orchestrator's nodes, that are alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database.time import DatabaseClock
from outbox.tables import READING, Tables


@dataclass(frozen=True)
class SendingProcess:
    """A relay or a node that was alive within the time of a lease, with its leases: one for each
    bucket of each destination, or for each shard."""

    owner: str
    leases: int


async def senders(
    connection: AsyncConnection, tables: Tables, now: Callable[[], datetime]
) -> Sequence[SendingProcess]:
    """They, by name. Left out are the readers of a queue, which have leases for its partitions and
    send nothing."""
    postgres = connection.dialect.name == "postgresql"
    time = DatabaseClock(postgres=postgres, now=now).time
    relay, lease = tables.outbox_relay, tables.outbox_lease
    is_held = and_(lease.c.owner == relay.c.owner, lease.c.expires_at > time)
    leases = select(func.count()).select_from(lease).where(is_held).scalar_subquery()
    found = (
        select(relay.c.owner, leases)
        .where(relay.c.expires_at > time, ~relay.c.destination.startswith(READING))
        .group_by(relay.c.owner)
        .order_by(relay.c.owner)
    )
    return [SendingProcess(*row) for row in await connection.execute(found)]
