"""Nodes that go on step by step, as far as they can at the moment of a test's clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import tables
from orchestrator.engine.node import Node
from orchestrator.machine.signals import OperatorSignal
from orchestrator.store import signal_rows
from orchestrator.store.sharding import shard_of
from orchestrator.store.signal_rows import StoredStart
from outbox.clock import Clock
from outbox.contract import SagaEnded
from outbox.wire.codec import decode
from tests.support.orchestrator.engines import Scripted

ENDED = str(SagaEnded.message_type)


async def go_on(*nodes: Node) -> None:
    """Let the nodes work until there is nothing left to do at this moment."""
    for node in nodes:
        await node.shards.tend_once()
    busy = True
    while busy:
        busy = False
        for node in nodes:
            node.committer.look()
            busy |= await node.committer.run_once() > 0
            for line in node.dispatcher.lines.values():
                busy |= await line.courier.run_once() > 0


class Asking:
    """Starts and signals that lie in the database, as handlers leave them there."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def start(
        self,
        saga_id: str,
        input: dict[str, Any],
        *,
        name: str = "book-trip",
        by: str = "mails",
        message_id: str | None = None,
        begin_at: datetime | None = None,
    ) -> None:
        """A start by a message of that service."""
        kind, payload = signal_rows.dump_start(StoredStart(name, input, by, None, begin_at))
        await self._write(saga_id, kind, payload, message_id)

    async def signal(self, saga_id: str, signal: OperatorSignal) -> None:
        """An operator's signal, at another node."""
        await self._write(saga_id, *signal_rows.dump(signal), None)

    async def _write(self, saga_id: str, kind: str, payload: str, message_id: str | None) -> None:
        row = signal_rows.to_row(saga_id, shard_of(saga_id), kind, payload, self._clock.now())
        async with self._engine.begin() as connection:
            await connection.execute(
                tables.saga_signal.insert().values(**row, message_id=message_id)
            )

    async def rows(self, table: Any) -> Sequence[Any]:
        """Everything in a table."""
        async with self._engine.connect() as connection:
            return (await connection.execute(select(table))).all()

    async def run(self, saga_id: str) -> Any:
        """The run's row."""
        async with self._engine.connect() as connection:
            query = select(tables.saga).where(tables.saga.c.id == saga_id)
            return (await connection.execute(query)).one_or_none()


def told(participant: Scripted) -> list[SagaEnded]:
    """The news of ends that the service was told, each message once."""
    news = {it.id: it for it in participant.seen if it.type == ENDED}
    return [decode(SagaEnded, it.data) for it in news.values()]


def read(row: Any) -> dict[str, Any]:
    """The document of a run's row."""
    found: dict[str, Any] = json.loads(row.document)
    return found
