"""What is read to tell what runs wait for: keys that rest, and participants that are silent.

The commands themselves stand in the documents of the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, TextualSelect, bindparam, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store import bulk
from orchestrator.store.sharding import LEASED_AS, buckets
from orchestrator.tables import SagaTables, saga_tables
from outbox.database.opening import Database
from outbox.database.table_set import in_sql

LOOKED_AT = 64 * 1024
"""Characters of a run's document that are read for a list; what is larger is left out."""


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that was sent: its order key, the shard of its run, and its participant."""

    id: str
    key: str
    shard: int
    participant: str


@dataclass(frozen=True, slots=True)
class Rest:
    """The rest of a command's order key: so many deliveries failed, the last for that `error`."""

    attempts: int
    next_at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Unanswering:
    """A participant that gives the node of a shard no answer: so many deliveries failed in a row,
    the first of them at `since`."""

    since: datetime
    deliveries: int
    reason: str
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What is in the way of commands: `rests` by the command's id, `silent` by shard and
    participant."""

    rests: Mapping[str, Rest] = field(default_factory=dict)
    silent: Mapping[tuple[int, str], Unanswering] = field(default_factory=dict)


@cache
def _documents(tables: SagaTables) -> Select[*tuple[Any, ...]]:
    saga = tables.saga
    return select(
        *(saga.c.id, saga.c.name, saga.c.version, saga.c.shard, saga.c.document, saga.c.ended_at)
    ).where(
        saga.c.id.in_(bindparam("ids", expanding=True)),
        saga.c.ended_at.is_(None),
        func.length(saga.c.document) <= LOOKED_AT,
    )


@cache
def _silent(tables: SagaTables) -> Select[*tuple[Any, ...]]:
    told, lease = tables.saga_silence.c, tables.messaging.outbox_lease.c
    return select(
        *(lease.bucket, told.destination, told.since, told.deliveries, told.reason, told.next_at)
    ).join(tables.saga_silence, (told.owner == lease.owner) & (lease.destination == LEASED_AS))


async def documents(database: Database, ids: Sequence[str]) -> Sequence[Row[Any]]:
    """The documents of those of these runs that live and are small enough to be looked at."""
    async with database.reading.connect() as connection:
        return (
            await connection.execute(_documents(saga_tables(database.tables)), {"ids": list(ids)})
        ).all()


async def obstacles(database: Database, commands: Sequence[SentCommand]) -> Obstacles:
    """What is in the way of these commands."""
    if not commands:
        return Obstacles()
    tables = saga_tables(database.tables)
    postgres = database.engine.dialect.name == "postgresql"
    async with database.reading.connect() as connection:
        rests = await _rests(connection, tables, commands, postgres=postgres)
        silent = {
            (row.bucket, row.destination): Unanswering(
                row.since, row.deliveries, row.reason, row.next_at
            )
            for row in await connection.execute(_silent(tables))
        }
    return Obstacles(rests, silent)


async def _rests(
    connection: AsyncConnection,
    tables: SagaTables,
    commands: Sequence[SentCommand],
    *,
    postgres: bool,
) -> Mapping[str, Rest]:
    values = bulk.Values(postgres=postgres)
    asked = bulk.document(
        [
            {
                "destination": it.participant,
                "bucket": bucket,
                "aggregateid": it.key,
                "head_id": values.id(it.id),
            }
            for it in commands
            for bucket in buckets(it.shard)
        ]
    )
    statement = _select_rests(tables, postgres=postgres)
    found = await connection.execute(statement, {"asked": asked})
    return {row.head_id: Rest(row.attempts, row.next_at, row.last_error) for row in found}


@cache
def _select_rests(tables: SagaTables, *, postgres: bool) -> TextualSelect:
    outbox_held = tables.messaging.outbox_held
    by = ("destination", "bucket", "aggregateid", "head_id")
    matched = " AND ".join(f"h.{name} = r.{name}" for name in by)
    told = (
        *(outbox_held.c.head_id, outbox_held.c.attempts),
        *(outbox_held.c.next_at, outbox_held.c.last_error),
    )
    listed = ", ".join(f"h.{it.name}" for it in told)
    asked = bulk.source(outbox_held, by, "asked", postgres=postgres)
    found = f"{in_sql(outbox_held)} AS h JOIN {asked} ON {matched}"
    return text(f"SELECT {listed} FROM {found}").columns(*told)
