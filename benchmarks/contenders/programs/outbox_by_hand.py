"""An outbox as tutorials show it: a table, and a relay that looks into it once a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from benchmarks.contenders.programs.roles import TEXT, Ears, play

_metadata = MetaData()
_work = Table(
    "work",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("text", Text, nullable=False),
)
_outbox = Table(
    "outbox",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("type", String(100), nullable=False),
    Column("payload", Text, nullable=False),
    Column("processed", Boolean, nullable=False, default=False, index=True),
)
_AT_ONCE = 100
_POLL = 1.0


async def prepare(database: str) -> None:
    """Make the tables."""
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(_metadata.create_all)
    await engine.dispose()


@asynccontextmanager
async def writing(database: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Write a row and a message in a transaction."""
    engine = create_async_engine(database)
    sessions = async_sessionmaker(engine)

    async def write(key: str) -> None:
        async with sessions.begin() as session:
            await session.execute(insert(_work).values(text=TEXT))
            payload = json.dumps({"key": key, "text": TEXT})
            await session.execute(insert(_outbox).values(type="noted", payload=payload))

    yield write
    await engine.dispose()


async def listening(database: str, ears: Ears) -> None:
    """Fetch what is not processed, handle each, and mark it."""
    sessions = async_sessionmaker(create_async_engine(database))
    waiting = (
        select(_outbox.c.id, _outbox.c.payload)
        .where(_outbox.c.processed.is_(False))
        .order_by(_outbox.c.id)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    while True:
        async with sessions.begin() as session:
            rows = (await session.execute(waiting)).all()
            for id_, payload in rows:
                await ears.hear(json.loads(payload)["key"])
                await session.execute(
                    update(_outbox).where(_outbox.c.id == id_).values(processed=True)
                )
        if not rows:
            await asyncio.sleep(_POLL)  # the pause of a relay that polls


if __name__ == "__main__":
    uvloop.run(play(prepare, writing, listening))
