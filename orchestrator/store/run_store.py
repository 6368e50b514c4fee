"""The statements about runs beside those of a group commit, for which there is `commit_statements`.
Each method is one step of the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Table,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.registry import Registry
from orchestrator.store.commit_statements import StaleRuns
from orchestrator.store.outgoing import OutgoingMessage
from orchestrator.store.records import Record
from orchestrator.store.sharding import buckets
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock


class RunStore(DatabaseClock):
    """Runs, their definitions, and their messages in the outbox."""

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

    # Due runs

    async def next_due(
        self, connection: AsyncConnection, shards: Collection[int]
    ) -> datetime | None:
        """The time of the next look at a run of these shards."""
        saga = self._tables.saga
        statement = select(func.min(saga.c.due_at)).where(
            saga.c.due_at.is_not(None), saga.c.shard.in_(sorted(shards)), saga.c.parked.is_(None)
        )
        found: datetime | None = (await connection.execute(statement)).scalar_one()
        return found

    async def due(
        self, connection: AsyncConnection, shards: Collection[int], now: datetime, most: int
    ) -> Sequence[str]:
        """The runs of these shards whose look is due."""
        saga = self._tables.saga
        statement = (
            select(saga.c.id)
            .where(saga.c.shard.in_(sorted(shards)), saga.c.due_at <= now)
            .where(saga.c.parked.is_(None))
            .order_by(saga.c.due_at)
            .limit(most)
        )
        return (await connection.scalars(statement)).all()

    async def load(self, connection: AsyncConnection, ids: Collection[str]) -> Sequence[Any]:
        """The rows of these runs that exist."""
        saga = self._tables.saga
        return (await connection.execute(select(saga).where(saga.c.id.in_(sorted(ids))))).all()

    # Runs

    async def exists(self, connection: AsyncConnection, saga_id: str) -> bool:
        """Whether there is such a run."""
        saga = self._tables.saga
        return bool(
            (await connection.execute(select(exists().where(saga.c.id == saga_id)))).scalar_one()
        )

    async def take_out(self, connection: AsyncConnection, records: Sequence[Record]) -> None:
        """Delete these runs over the revision that they were read in, so that they are inserted as
        new runs are. Raises StaleRuns."""
        saga = self._tables.saga
        read = [(it.instance.id, it.revision) for it in records]
        result = await connection.execute(
            delete(saga).where(tuple_(saga.c.id, saga.c.revision).in_(read))
        )
        if result.rowcount != len(read):
            raise StaleRuns

    async def park(self, connection: AsyncConnection, saga_id: str, reason: str) -> None:
        """Park the run: no node works on it until one unparks it."""
        saga = self._tables.saga
        await connection.execute(
            update(saga).where(saga.c.id == saga_id).values(parked=reason, updated_at=self._now)
        )

    async def unpark(self, connection: AsyncConnection, shards: Collection[int]) -> None:
        """Unpark the runs of these shards whose definition is registered here."""
        saga = self._tables.saga
        known = [(it.name, it.version) for it in self._registry]
        if known:
            await connection.execute(
                update(saga)
                .where(saga.c.parked.is_not(None), saga.c.shard.in_(sorted(shards)))
                .where(tuple_(saga.c.name, saga.c.version).in_(known))
                .values(parked=None)
            )

    # Messages

    async def present(
        self,
        connection: AsyncConnection,
        messages: Sequence[OutgoingMessage],
        answered: Collection[int],
    ) -> frozenset[str]:
        """The ids that still have a row in the outbox, not counting `answered`."""
        tables = self._tables.messaging
        outbox = tables.outbox
        outbox_parked = tables.outbox_parked
        ids = sorted(it.envelope.id for it in messages)
        where = sorted({(it.destination, it.bucket) for it in messages})
        found: set[str] = set()
        for table in (outbox, outbox_parked):
            statement = select(table.c.id, table.c.seq).where(
                tuple_(table.c.destination, table.c.bucket).in_(where), table.c.id.in_(ids)
            )
            rows = await connection.execute(statement)
            found |= {row.id for row in rows if row.seq not in answered}
        return frozenset(found)

    async def forget_dead_letters(
        self, connection: AsyncConnection, messages: Sequence[OutgoingMessage]
    ) -> None:
        """Delete the dead letters with these ids, because the messages are sent again."""
        outbox_dead = self._tables.messaging.outbox_dead
        ids = sorted(it.envelope.id for it in messages)
        await connection.execute(delete(outbox_dead).where(outbox_dead.c.id.in_(ids)))

    async def withdraw(
        self, connection: AsyncConnection, ids: Collection[str], shards: Collection[int]
    ) -> None:
        """Take these messages out of the outbox, wherever they stand, and let their keys rest no
        longer. Where others wait behind one, the courier must try them now: it frees the key."""
        tables = self._tables.messaging
        outbox = tables.outbox
        outbox_parked = tables.outbox_parked
        outbox_held = tables.outbox_held
        wanted = sorted(ids)
        theirs = [bucket for shard in shards for bucket in buckets(shard)]
        for table in (outbox, outbox_parked):
            await connection.execute(
                delete(table).where(table.c.bucket.in_(theirs), table.c.id.in_(wanted))
            )
        resting = outbox_held.c.head_id.in_(wanted)
        one_waits = or_(*(_is_of_key(outbox_held, table) for table in (outbox, outbox_parked)))
        await connection.execute(delete(outbox_held).where(resting, ~one_waits))
        await connection.execute(update(outbox_held).where(resting).values(next_at=self._now))

    # Housekeeping

    async def live(self, connection: AsyncConnection, below: str, most: int) -> Sequence[str]:
        """The oldest numbers and ids, below that one, of runs that have begun and not ended."""
        saga = self._tables.saga
        found: set[str] = set()
        for told_by in (saga.c.id, saga.c.number):
            statement = (
                select(told_by)
                .where(self._tables.has_begun, told_by < below)
                .order_by(told_by)
                .limit(most)
            )
            found.update((await connection.scalars(statement)).all())
        return sorted(found)[:most]

    async def register(self, connection: AsyncConnection) -> Sequence[tuple[str, int]]:
        """Write the shape of each new definition. Returns the names and versions of those that had
        another shape."""
        saga_definition = self._tables.saga_definition
        changed = []
        for definition in self._registry:
            await connection.execute(
                self._insert(saga_definition)
                .values(
                    name=definition.name,
                    version=definition.version,
                    fingerprint=definition.fingerprint,
                    seen_at=self._now,
                )
                .on_conflict_do_nothing()
            )
            known = await connection.scalar(
                select(saga_definition.c.fingerprint).where(
                    saga_definition.c.name == definition.name,
                    saga_definition.c.version == definition.version,
                )
            )
            if known != definition.fingerprint:
                changed.append((definition.name, definition.version))
        return changed

    async def now(self, connection: AsyncConnection) -> datetime:
        """The database's time."""
        found: datetime = (await connection.execute(select(self._now))).scalar_one()
        return found


def _is_of_key(outbox_held: Table, table: Table) -> ColumnElement[bool]:
    """Whether the table has a message of the key that rests."""
    return exists().where(
        table.c.destination == outbox_held.c.destination,
        table.c.bucket == outbox_held.c.bucket,
        table.c.aggregateid == outbox_held.c.aggregateid,
    )
