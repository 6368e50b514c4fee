"""faststream-outbox: a message published in the transaction, and a subscriber."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import BigInteger, Column, Identity, MetaData, Table, Text, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.programs.roles import TEXT, Ears, play

_metadata = MetaData()
_work = Table(
    "work",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("text", Text, nullable=False),
)
_outbox: Any = make_outbox_table(_metadata)
_WORKERS, _AT_ONCE = 16, 100


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
    broker = OutboxBroker(engine, outbox_table=_outbox, logger=None)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)

    async def write(key: str) -> None:
        async with sessions.begin() as session:
            await session.execute(insert(_work).values(text=TEXT))
            await broker.publish({"key": key, "text": TEXT}, queue="noted", session=session)

    await broker.connect()
    yield write
    await engine.dispose()


async def listening(database: str, ears: Ears) -> None:
    """Subscribe for ever."""
    logging.disable(logging.WARNING)
    engine = create_async_engine(database, pool_size=_WORKERS + 4)
    broker = OutboxBroker(engine, outbox_table=_outbox, logger=None)

    @broker.subscriber(
        "noted",
        max_workers=_WORKERS,
        fetch_batch_size=_AT_ONCE,
        terminal_flush_batch_size=_WORKERS,
    )
    async def noted(body: dict[str, str]) -> None:
        await ears.hear(body["key"])

    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(play(prepare, writing, listening))
