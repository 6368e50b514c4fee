"""What `outbox.add` costs, next to the same transaction with a hand-written insert."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import outbox
from benchmarks.figures import Figures
from benchmarks.measuring import median, rate
from benchmarks.names import ADDING, RATE
from benchmarks.places import Place
from outbox import sqlite, tables
from outbox.ids import Ids

_metadata = MetaData()
_work = Table(
    "work",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("text", String(300), nullable=False),
)


@dataclass(frozen=True)
class _Noted(outbox.Event, type="bench.noted.v1", key="key"):
    key: str
    text: str


async def measure(place: Place, figures: Figures, transactions: int, rounds: int) -> None:
    """Transactions a second that write one row and send one message, in three ways."""
    engine = create_async_engine(place.url)
    sqlite.configure(engine)
    async with engine.begin() as connection:
        for metadata in (_metadata, tables.metadata):
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
    plain = async_sessionmaker(engine)
    ordered, unordered = async_sessionmaker(engine), async_sessionmaker(engine)
    routes = {_Noted: ["comments"]}
    outbox.install(ordered, source="bench", routes=routes)
    outbox.install(unordered, source="bench", routes=routes, ordered=False)
    clock = outbox.SystemClock()
    ids = Ids(clock, os.urandom)
    text = "x" * 280

    async def by_hand(session: AsyncSession) -> None:
        await session.execute(
            insert(tables.outbox).values(
                id=ids(),
                destination="comments",
                bucket=16,
                aggregatetype="bench",
                aggregateid="key",
                type="bench.noted.v1",
                payload='{"key":"key","text":"' + text + '"}',
                headers='{"source":"bench"}',
                occurred_at=clock.now(),
            )
        )

    async def add(session: AsyncSession) -> None:
        outbox.add(session, _Noted("key", text))

    def repeated(
        sessions: async_sessionmaker[AsyncSession], send: Callable[[AsyncSession], Awaitable[None]]
    ) -> Callable[[], Awaitable[int]]:
        async def run() -> int:
            for _ in range(transactions):
                async with sessions.begin() as session:
                    await session.execute(insert(_work).values(text=text))
                    await send(session)
            return transactions

        return run

    ways = {
        "transaction with a hand-written insert": repeated(plain, by_hand),
        "the same with outbox.add, ordered=False": repeated(unordered, add),
        "the same with outbox.add": repeated(ordered, add),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            measured[name].append(await rate(way))
    for name, values in measured.items():
        figures.add((place.name, ADDING, name), {RATE: median(values)})
    await engine.dispose()
