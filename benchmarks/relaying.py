"""How fast the relay empties an outbox, next to the fastest way of filling a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # it has no type information
from sqlalchemy import insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.measuring import Figure, rates
from outbox import sqlite, tables
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.lanes import Lane, bucket_of
from outbox.relay.relay import Relay
from outbox.replies import Outcome, Reply
from outbox.transports.base import Answered
from outbox.wire.envelope import Envelope

_KEYS = 1000
_PAYLOAD = '{"text":"' + "x" * 280 + '"}'
_AT_ONCE = 100
_DONE = Reply(Outcome.DONE)


class _Instant:
    """A destination that answers at once, so that only the relay is measured."""

    async def deliver(self, envelopes: Sequence[Envelope]) -> Answered:
        return Answered([_DONE] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def measure(url: str, messages: int, rounds: int) -> list[Figure]:
    """Messages a second: written by the driver's executemany, 100 a transaction; and relayed."""
    engine = create_async_engine(url)
    sqlite.configure(engine)
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.drop_all)
        await connection.run_sync(tables.metadata.create_all)
    clock = SystemClock()
    relay = Relay(engine, {"comments": _Instant()}, owner="bench", clock=clock)

    async def fill() -> int:
        return await _executemany(url, messages)

    async def drain() -> int:
        sent = 0
        while settled := await relay.run_once():
            sent += settled
        return sent

    async def fill_outbox() -> None:
        await _fill_outbox(engine, messages, clock)

    figures = [
        *await rates({"driver's executemany, 100 rows a transaction": fill}, rounds, "rows/s"),
    ]
    relayed = []
    for _ in range(rounds):
        await fill_outbox()
        relayed += await rates({"relay, instant destination": drain}, 1, "messages/s")
    figures.append(sorted(relayed, key=lambda it: it.value)[len(relayed) // 2])
    await relay.aclose()
    await engine.dispose()
    return figures


async def _fill_outbox(engine: AsyncEngine, messages: int, clock: SystemClock) -> None:
    rows = _rows(messages, clock)
    async with engine.begin() as connection:
        for start in range(0, messages, 1000):
            await connection.execute(insert(tables.outbox), rows[start : start + 1000])


def _rows(messages: int, clock: SystemClock) -> list[dict[str, Any]]:
    ids = Ids(clock, os.urandom)
    keys = [f"key-{number}" for number in range(_KEYS)]
    return [
        {
            "id": ids(),
            "destination": "comments",
            "bucket": bucket_of(Lane.NORMAL, keys[number % _KEYS]),
            "aggregatetype": "articles",
            "aggregateid": keys[number % _KEYS],
            "type": "articles.noted.v1",
            "payload": _PAYLOAD,
            "headers": '{"source":"articles"}',
            "occurred_at": clock.now(),
        }
        for number in range(messages)
    ]


async def _executemany(url: str, rows: int) -> int:
    batch = [(number, "comments", "key", _PAYLOAD) for number in range(_AT_ONCE)]
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
        postgres = await asyncpg.connect(plain)
        await postgres.execute("DROP TABLE IF EXISTS plain")
        await postgres.execute("CREATE TABLE plain (n bigint, d text, k text, payload text)")
        for _ in range(rows // _AT_ONCE):
            await postgres.executemany("INSERT INTO plain VALUES ($1, $2, $3, $4)", batch)
        await postgres.close()
    else:
        async with aiosqlite.connect(str(address.database)) as database:
            await database.execute("PRAGMA synchronous=FULL")
            await database.execute("DROP TABLE IF EXISTS plain")
            await database.execute("CREATE TABLE plain (n bigint, d text, k text, payload text)")
            for _ in range(rows // _AT_ONCE):
                await database.executemany("INSERT INTO plain VALUES (?, ?, ?, ?)", batch)
                await database.commit()
    return rows // _AT_ONCE * _AT_ONCE
