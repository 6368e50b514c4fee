"""The SQL of signals, which lie in the database until the owner of their run applies them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.signal_rows import to_row
from orchestrator.tables import SagaTables
from outbox.database.time import DatabaseClock


class SignalStore(DatabaseClock):
    """The signals of runs, and the answers left for the nodes that asked. Each method is one step
    of the caller's transaction."""

    def __init__(self, tables: SagaTables, *, postgres: bool, now: Callable[[], datetime]) -> None:
        super().__init__(postgres=postgres, now=now)
        self._tables = tables

    async def waiting(
        self, connection: AsyncConnection, shards: Collection[int], most: int
    ) -> Sequence[Any]:
        """The stored signals for the runs of these shards, the oldest first; parked runs are left
        out."""
        saga_signal = self._tables.saga_signal
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
        tables = self._tables
        saga = tables.saga
        saga_signal = tables.saga_signal
        is_parked = exists(
            select(saga.c.id).where(saga.c.id == saga_signal.c.saga_id, saga.c.parked.is_not(None))
        )
        return saga_signal.c.shard.in_(sorted(shards)) & saga_signal.c.answer.is_(None) & ~is_parked

    async def add(
        self, connection: AsyncConnection, signals: Sequence[tuple[str, int, str, str]]
    ) -> None:
        """Write signals: run, shard, kind, payload."""
        saga_signal = self._tables.saga_signal
        await connection.execute(
            saga_signal.insert(),
            [to_row(*signal, self._clock()) for signal in signals],
        )

    async def remove(self, connection: AsyncConnection, seqs: Sequence[int]) -> None:
        """Delete signals that were applied."""
        saga_signal = self._tables.saga_signal
        await connection.execute(delete(saga_signal).where(saga_signal.c.seq.in_(seqs)))

    async def answer(self, connection: AsyncConnection, seq: int, answer: str) -> None:
        """Leave an answer for the node that asks."""
        saga_signal = self._tables.saga_signal
        await connection.execute(
            update(saga_signal).where(saga_signal.c.seq == seq).values(answer=answer)
        )

    async def ask(
        self, connection: AsyncConnection, saga_id: str, shard: int, kind: str, payload: str
    ) -> int:
        """Write a signal for a run of another node. Returns the number of its answer."""
        saga_signal = self._tables.saga_signal
        statement = (
            saga_signal.insert()
            .values(to_row(saga_id, shard, kind, payload, self._clock()))
            .returning(saga_signal.c.seq)
        )
        return int((await connection.execute(statement)).scalar_one())

    async def answer_to(self, connection: AsyncConnection, seq: int) -> str | None:
        """The answer that the owner left; None until it did."""
        saga_signal = self._tables.saga_signal
        statement = select(saga_signal.c.answer).where(saga_signal.c.seq == seq)
        found: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def withdraw(self, connection: AsyncConnection, seq: int) -> bool:
        """Take a signal back. False where it was answered, or applied, by now."""
        saga_signal = self._tables.saga_signal
        result = await connection.execute(
            delete(saga_signal).where(saga_signal.c.seq == seq, saga_signal.c.answer.is_(None))
        )
        return result.rowcount == 1

    async def forget_answers(self, connection: AsyncConnection, before: timedelta) -> None:
        """Remove answers that are older than that, which the node that asked never fetched."""
        saga_signal = self._tables.saga_signal
        old = self._in(-before)
        await connection.execute(
            delete(saga_signal).where(
                saga_signal.c.answer.is_not(None), saga_signal.c.made_at < old
            )
        )
