"""Many runs like one that is there, copied by SQL within the database."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.store.sharding import shard_of
from orchestrator.tables import PLAIN
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.lanes import BUCKETS_PER_LANE
from outbox.tables import DEFAULT_TABLES

_MANY = 20_000
"""Runs in a transaction, at most."""

_fresh = Table(
    "fresh",
    MetaData(),
    *(Column(name, Uuid(as_uuid=False)) for name in ("run", "command")),
    *(Column(f"{name}_text", Text) for name in ("run", "command", "article")),
    Column("shard", Integer),
    prefixes=["TEMPORARY"],
)
_MADE_BY_POSTGRESQL = text(
    """
    INSERT INTO fresh (run, command, run_text, command_text, article_text, shard)
    SELECT run, command, run::text, command::text, uuidv7()::text,
           crc32(convert_to(run::text, 'UTF8')) % :shards
    FROM (
        SELECT uuidv7() AS run, uuidv7() AS command FROM generate_series(1, :count)
    ) AS runs
    """
)
_TIDYING = {
    "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
    "sqlite": ("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"),
}


async def copy_runs(engine: AsyncEngine, run: str, count: int, *, histories: Sequence[int]) -> None:
    """Make `count` runs like this one, each with an id, a command, an article and a shard of its
    own; with these lines of its history, and with its unsent message where it has one."""
    for start in range(0, count, _MANY):
        async with engine.begin() as connection:
            await connection.run_sync(_fresh.create)
            await _make_ids(connection, min(_MANY, count - start))
            await _copy(connection, run, histories)
            await connection.run_sync(_fresh.drop)


async def tidy(engine: AsyncEngine) -> None:
    """Let the database do now what it would do later because of new rows."""
    async with engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in _TIDYING[engine.dialect.name]:
            await alone.execute(text(statement))


async def _make_ids(connection: AsyncConnection, count: int) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        values = {"shards": BUCKETS_PER_LANE, "count": count}
        await connection.execute(_MADE_BY_POSTGRESQL, values)
        return
    ids = Ids(SystemClock(), os.urandom)
    rows = []
    for _ in range(count):
        run, command, article = ids(), ids(), ids()
        texts = {"run_text": run, "command_text": command, "article_text": article}
        rows.append({"run": run, "command": command, "shard": shard_of(run), **texts})
    await connection.execute(insert(_fresh), rows)


async def _copy(connection: AsyncConnection, run: str, histories: Sequence[int]) -> None:
    known = await _ids_of(connection, run)
    saga, lines, messages = PLAIN.saga, PLAIN.saga_history, DEFAULT_TABLES.outbox
    for table, condition in (
        (saga, saga.c.id == run),
        (lines, (lines.c.saga_id == run) & lines.c.number.in_(histories)),
        (messages, messages.c.id == known["command"]),
    ):
        columns = [it for it in table.c if it.name not in ("xid", "seq")]
        values = [_fresh_value(it, known) for it in columns]
        each = select(*values).select_from(table.join(_fresh, true())).where(condition)
        await connection.execute(insert(table).from_select([it.name for it in columns], each))


async def _ids_of(connection: AsyncConnection, run: str) -> Mapping[str, str]:
    """The ids of that run that are to differ: its own, its last command's, and its article's."""
    saga, lines = PLAIN.saga.c, PLAIN.saga_history.c
    article = await connection.scalar(select(saga.key).where(saga.id == run))
    command = await connection.scalar(
        select(lines.command_id)
        .where(lines.saga_id == run, lines.command_id.is_not(None))
        .order_by(lines.number.desc())
        .limit(1)
    )
    assert article is not None
    assert command is not None
    return {"run": run, "command": command, "article": article}


def _fresh_value(column: Column[Any], known: Mapping[str, str]) -> ColumnElement[Any]:
    """The column's value in the copy."""
    if column.name == "shard":
        return _fresh.c.shard
    if column.name == "bucket":
        return column // BUCKETS_PER_LANE * BUCKETS_PER_LANE + _fresh.c.shard
    if isinstance(column.type, Uuid) and column.name != "start_id":
        is_command = column.name == "command_id" or column.table is DEFAULT_TABLES.outbox
        return _fresh.c.command if is_command else _fresh.c.run
    value: ColumnElement[Any] = column
    if isinstance(column.type, String):
        for name, old in known.items():
            value = func.replace(value, old, _fresh.c[f"{name}_text"])
    return value
