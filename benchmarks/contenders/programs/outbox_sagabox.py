"""This project's outbox with its relay, whose destination is within the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
import uvloop
from sqlalchemy import BigInteger, Column, Identity, MetaData, Table, Text, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import outbox
from benchmarks.contenders.programs.roles import TEXT, Ears, play
from outbox import tables
from outbox.replies import Outcome, Reply
from outbox.transports.base import Answered
from outbox.wire.envelope import Envelope

_metadata = MetaData()
_work = Table(
    "work",
    _metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("text", Text, nullable=False),
)
_DONE = Reply(Outcome.DONE)


@dataclass(frozen=True)
class _Noted(outbox.Event, type="bench.noted.v1", key="key"):
    key: str
    text: str


class _Handler:
    def __init__(self, ears: Ears) -> None:
        self._ears = ears

    async def deliver(self, envelopes: Sequence[Envelope]) -> Answered:
        for envelope in envelopes:
            await self._ears.hear(orjson.loads(envelope.data)["key"])
        return Answered([_DONE] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def prepare(database: str) -> None:
    """Make the tables."""
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        for metadata in (_metadata, tables.metadata):
            await connection.run_sync(metadata.create_all)
    await engine.dispose()


@asynccontextmanager
async def writing(database: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Write a row and a message in a transaction."""
    engine = create_async_engine(database)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine)
    outbox.install(sessions, source="bench", routes={_Noted: ["hearer"]})

    async def write(key: str) -> None:
        async with sessions.begin() as session:
            await session.execute(insert(_work).values(text=TEXT))
            outbox.add(session, _Noted(key, TEXT))

    yield write
    await engine.dispose()


async def listening(database: str, ears: Ears) -> None:
    """Relay for ever."""
    relay = outbox.Relay(
        create_async_engine(database),
        {"hearer": _Handler(ears)},
        owner="bench",
        clock=outbox.SystemClock(),
    )
    await relay.run(asyncio.Event())


if __name__ == "__main__":
    uvloop.run(play(prepare, writing, listening))
