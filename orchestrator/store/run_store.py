"""What the engine asks the database beside its group commits, for which there is `writing`. Each
method is one step of the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Table,
    case,
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
from orchestrator.store.outgoing import Letter
from orchestrator.store.records import SHARDS
from orchestrator.tables import (
    saga,
    saga_alias,
    saga_batch,
    saga_definition,
    saga_signal,
    saga_start_key,
)
from outbox.database.time import DatabaseClock
from outbox.tables import outbox, outbox_dead, outbox_held, outbox_parked

REFUSED = "REFUSED"
"""What is told of the end of a start that began no run."""


@dataclass(frozen=True, slots=True)
class StartKey:
    """An idempotency key, what was asked for with it, and the run that it belongs to."""

    name: str
    key: str
    fingerprint: bytes
    saga_id: str


class AliasRow(NamedTuple):
    """A start that another run stands for, who asked for it, in which trace, by which message."""

    saga_id: str
    id: str
    originator: str | None
    trace: str | None = None
    start_id: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What became of an id that was used for a start: the message that asked for it, and the
    status with which it ended; REFUSED, where it began no run; None, while it lives."""

    start_id: str | None
    ended: str | None


class SagaStore(DatabaseClock):
    """Runs, their history, and what they were told."""

    def __init__(self, registry: Registry, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._registry = registry

    # What there is to do

    async def signals(
        self, connection: AsyncConnection, shards: Collection[int], most: int
    ) -> Sequence[Any]:
        """What the runs of these shards were told, the oldest first; parked runs are left out."""
        statement = (
            select(
                saga_signal.c.seq,
                saga_signal.c.saga_id,
                saga_signal.c.kind,
                saga_signal.c.payload,
                saga_signal.c.made_at,
                saga_signal.c.message_id,
            )
            .where(self._waits(shards))
            .order_by(saga_signal.c.seq)
            .limit(most)
        )
        return (await connection.execute(statement)).all()

    def _waits(self, shards: Collection[int]) -> Any:
        is_parked = exists(
            select(saga.c.id).where(saga.c.id == saga_signal.c.saga_id, saga.c.parked.is_not(None))
        )
        return saga_signal.c.shard.in_(sorted(shards)) & saga_signal.c.answer.is_(None) & ~is_parked

    async def next_due(
        self, connection: AsyncConnection, shards: Collection[int]
    ) -> datetime | None:
        """When the next run of these shards is to be looked at."""
        statement = select(func.min(saga.c.due_at)).where(
            saga.c.due_at.is_not(None), saga.c.shard.in_(sorted(shards)), saga.c.parked.is_(None)
        )
        found: datetime | None = (await connection.execute(statement)).scalar_one()
        return found

    async def due(
        self, connection: AsyncConnection, shards: Collection[int], now: datetime, most: int
    ) -> Sequence[str]:
        """The runs of these shards that are to be looked at by now."""
        statement = (
            select(saga.c.id)
            .where(saga.c.shard.in_(sorted(shards)), saga.c.due_at <= now)
            .where(saga.c.parked.is_(None))
            .order_by(saga.c.due_at)
            .limit(most)
        )
        return (await connection.scalars(statement)).all()

    async def load(self, connection: AsyncConnection, ids: Collection[str]) -> Sequence[Any]:
        """The rows of these runs, as far as there are any."""
        return (await connection.execute(select(saga).where(saga.c.id.in_(sorted(ids))))).all()

    # Runs

    async def park(self, connection: AsyncConnection, saga_id: str, reason: str) -> None:
        """Nothing more is done about this run here, until somebody can."""
        await connection.execute(
            update(saga).where(saga.c.id == saga_id).values(parked=reason, updated_at=self._now)
        )

    async def unpark(self, connection: AsyncConnection, shards: Collection[int]) -> None:
        """Try those again whose definition is registered here."""
        known = [(it.name, it.version) for it in self._registry]
        if known:
            await connection.execute(
                update(saga)
                .where(saga.c.parked.is_not(None), saga.c.shard.in_(sorted(shards)))
                .where(tuple_(saga.c.name, saga.c.version).in_(known))
                .values(parked=None)
            )

    # Starts

    async def claim_keys(
        self, connection: AsyncConnection, keys: Sequence[StartKey]
    ) -> Mapping[tuple[str, str], StartKey]:
        """Write idempotency keys where they are new, in one order for everybody. What stands there
        now."""
        rows = [
            {"name": it.name, "key": it.key, "fingerprint": it.fingerprint, "saga_id": it.saga_id}
            for it in sorted(keys, key=lambda it: (it.name, it.key))
        ]
        for row in rows:
            await connection.execute(
                self._insert(saga_start_key).values(**row).on_conflict_do_nothing()
            )
        wanted = sorted({(it.name, it.key) for it in keys})
        found = await connection.execute(
            select(saga_start_key).where(
                tuple_(saga_start_key.c.name, saga_start_key.c.key).in_(wanted)
            )
        )
        return {(it.name, it.key): StartKey(*it) for it in found}

    async def release_keys(self, connection: AsyncConnection, saga_ids: Collection[str]) -> None:
        """These began no run after all."""
        await connection.execute(
            delete(saga_start_key).where(saga_start_key.c.saga_id.in_(sorted(saga_ids)))
        )

    async def existing(
        self, connection: AsyncConnection, ids: Collection[str]
    ) -> Mapping[str, Known]:
        """Which of these ids are runs or aliases already, and what became of them."""
        wanted = sorted(ids)
        ended = case((saga.c.ended_at.is_not(None), saga.c.status))
        runs = select(saga.c.id, saga.c.start_id, ended).where(saga.c.id.in_(wanted))
        aliases = (
            select(
                saga_alias.c.id,
                saga_alias.c.start_id,
                case((saga_alias.c.saga_id.is_(None), REFUSED), else_=ended),
            )
            .select_from(saga_alias.outerjoin(saga, saga.c.id == saga_alias.c.saga_id))
            .where(saga_alias.c.id.in_(wanted))
        )
        found = await connection.execute(runs.union_all(aliases))
        return {id: Known(start_id, status) for id, start_id, status in found}

    async def active(self, connection: AsyncConnection, name: str, key: str) -> str | None:
        """The active run for that key, which cannot end before this transaction has."""
        statement = (
            select(saga.c.id)
            .where(saga.c.name == name, saga.c.active_key == key)
            # Not FOR KEY SHARE: its end must wait, so that it finds the alias that is being made.
            .with_for_update(read=True)
        )
        found: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def add_alias(
        self,
        connection: AsyncConnection,
        alias: str,
        *,
        saga_id: str | None,
        originator: str | None,
        reason: str | None,
        trace: str | None,
        start_id: str | None,
    ) -> None:
        """A start that began no run."""
        await connection.execute(
            self._insert(saga_alias)
            .values(
                id=alias,
                saga_id=saga_id,
                originator=originator,
                reason=reason,
                trace=trace,
                start_id=start_id,
                made_at=self._now,
            )
            .on_conflict_do_nothing()
        )

    async def aliases(
        self, connection: AsyncConnection, saga_ids: Collection[str]
    ) -> Sequence[AliasRow]:
        """The starts that these runs stand for. To be asked after the runs were written, for then
        no more can come."""
        of_alias = saga_alias.c
        statement = select(
            of_alias.saga_id, of_alias.id, of_alias.originator, of_alias.trace, of_alias.start_id
        ).where(of_alias.saga_id.in_(sorted(saga_ids)))
        return [AliasRow(*it) for it in await connection.execute(statement)]

    # Messages

    async def present(
        self, connection: AsyncConnection, letters: Sequence[Letter], answered: Collection[int]
    ) -> frozenset[str]:
        """The ids that still have a row in the outbox, not counting `answered`."""
        ids = sorted(it.envelope.id for it in letters)
        where = sorted({(it.destination, it.bucket) for it in letters})
        found: set[str] = set()
        for table in (outbox, outbox_parked):
            statement = select(table.c.id, table.c.seq).where(
                tuple_(table.c.destination, table.c.bucket).in_(where), table.c.id.in_(ids)
            )
            rows = await connection.execute(statement)
            found |= {row.id for row in rows if row.seq not in answered}
        return frozenset(found)

    async def forget_dead_letters(
        self, connection: AsyncConnection, letters: Sequence[Letter]
    ) -> None:
        """Delete the dead letters with these ids, because the messages are sent again."""
        ids = sorted(it.envelope.id for it in letters)
        await connection.execute(delete(outbox_dead).where(outbox_dead.c.id.in_(ids)))

    async def withdraw(
        self, connection: AsyncConnection, ids: Collection[str], shards: Collection[int]
    ) -> None:
        """Take these messages out of the outbox, wherever they stand, and let their keys rest no
        longer. Where others wait behind one, the courier is to try them now: it frees the key."""
        wanted = sorted(ids)
        buckets = [lane + shard for shard in shards for lane in (0, len(SHARDS))]
        for table in (outbox, outbox_parked):
            await connection.execute(
                delete(table).where(table.c.bucket.in_(buckets), table.c.id.in_(wanted))
            )
        resting = outbox_held.c.head_id.in_(wanted)
        somebody_waits = or_(*(_is_of_key(table) for table in (outbox, outbox_parked)))
        await connection.execute(delete(outbox_held).where(resting, ~somebody_waits))
        await connection.execute(update(outbox_held).where(resting).values(next_at=self._now))

    # Signals

    async def add_signals(
        self, connection: AsyncConnection, signals: Sequence[tuple[str, int, str, str]]
    ) -> None:
        """Tell runs something: run, shard, kind, payload."""
        await connection.execute(
            saga_signal.insert(),
            [
                {
                    "saga_id": saga_id,
                    "shard": shard,
                    "kind": kind,
                    "payload": payload,
                    "made_at": self._clock(),
                }
                for saga_id, shard, kind, payload in signals
            ],
        )

    async def remove_signals(self, connection: AsyncConnection, seqs: Sequence[int]) -> None:
        """These were applied."""
        await connection.execute(delete(saga_signal).where(saga_signal.c.seq.in_(seqs)))

    async def answer_signal(self, connection: AsyncConnection, seq: int, answer: str) -> None:
        """Leave an answer for the node that asks."""
        await connection.execute(
            update(saga_signal).where(saga_signal.c.seq == seq).values(answer=answer)
        )

    async def ask(
        self, connection: AsyncConnection, saga_id: str, shard: int, kind: str, payload: str
    ) -> int:
        """Tell a run of another node something; the number under which the answer will be."""
        statement = (
            saga_signal.insert()
            .values(saga_id=saga_id, shard=shard, kind=kind, payload=payload, made_at=self._clock())
            .returning(saga_signal.c.seq)
        )
        return int((await connection.execute(statement)).scalar_one())

    async def answer_to(self, connection: AsyncConnection, seq: int) -> str | None:
        """What the owner left there."""
        statement = select(saga_signal.c.answer).where(saga_signal.c.seq == seq)
        found: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def withdraw_question(self, connection: AsyncConnection, seq: int) -> bool:
        """Take a signal back. False where it was answered, or applied, by now."""
        result = await connection.execute(
            delete(saga_signal).where(saga_signal.c.seq == seq, saga_signal.c.answer.is_(None))
        )
        return result.rowcount == 1

    async def run_exists(self, connection: AsyncConnection, saga_id: str) -> bool:
        """Whether there is such a run."""
        return bool(
            (await connection.execute(select(exists().where(saga.c.id == saga_id)))).scalar_one()
        )

    # Keeping house

    async def live(self, connection: AsyncConnection, below: str, most: int) -> Sequence[str]:
        """The oldest numbers and ids, below that one, of runs that have not ended."""
        found: set[str] = set()
        for told_by in (saga.c.id, saga.c.number):
            statement = (
                select(told_by)
                .where(saga.c.ended_at.is_(None), told_by < below)
                .order_by(told_by)
                .limit(most)
            )
            found.update((await connection.scalars(statement)).all())
        return sorted(found)[:most]

    async def forget(self, connection: AsyncConnection, before: timedelta) -> None:
        """Remove the ids of old group commits, and answers that nobody came for."""
        old = self._in(-before)
        await connection.execute(delete(saga_batch).where(saga_batch.c.made_at < old))
        await connection.execute(
            delete(saga_signal).where(
                saga_signal.c.answer.is_not(None), saga_signal.c.made_at < old
            )
        )

    async def register(self, connection: AsyncConnection) -> Sequence[tuple[str, int]]:
        """Write the shape of each definition that is new; the name and version of those whose
        shape was another one."""
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


def _is_of_key(table: Table) -> ColumnElement[bool]:
    """Whether the table has a message of the key that rests."""
    return exists().where(
        table.c.destination == outbox_held.c.destination,
        table.c.bucket == outbox_held.c.bucket,
        table.c.aggregateid == outbox_held.c.aggregateid,
    )
