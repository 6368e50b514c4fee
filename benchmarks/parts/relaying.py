"""How fast the relay empties an outbox, next to the fastest way of filling a table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # it has no type information
from sqlalchemy import exists, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.figures import Figures
from benchmarks.measuring import median, rate
from benchmarks.names import EXECUTEMANY, RATE, RELAY, RELAYING
from benchmarks.outbox_rows import PAYLOAD_TEXT, fill
from benchmarks.places import Place
from outbox import sqlite, tables
from outbox.clock import SystemClock
from outbox.coordination.bell import Bell
from outbox.database.engines import reading
from outbox.relay.relay import Relay
from outbox.replies import Outcome, Reply
from outbox.transports.base import Answered
from outbox.wire.envelope import Envelope

_PAYLOAD = '{"text":"' + PAYLOAD_TEXT + '"}'
_AT_ONCE = 100
_DONE = Reply(Outcome.DONE)
_IS_LEFT = select(exists(select(tables.outbox.c.seq)))


class _Instant:
    """A destination that answers at once, so that only the relay is measured."""

    def __init__(self) -> None:
        self._missing = 0
        self._all = asyncio.Event()

    def expect(self, messages: int) -> None:
        """Wait for so many more."""
        self._missing += messages
        self._all.clear()

    async def has_all(self) -> None:
        """Return when they have come."""
        await self._all.wait()

    async def deliver(self, envelopes: Sequence[Envelope]) -> Answered:
        self._missing -= len(envelopes)
        if self._missing <= 0:
            self._all.set()
        return Answered([_DONE] * len(envelopes))

    async def aclose(self) -> None:
        """Nothing is open."""


async def measure(place: Place, figures: Figures, messages: int, rounds: int) -> None:
    """Messages a second: written by the driver's executemany, 100 a transaction; and relayed, until
    the outbox is empty, by a relay that runs as in a service."""
    engine = create_async_engine(place.url)
    sqlite.configure(engine)
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.drop_all)
        await connection.run_sync(tables.metadata.create_all)
    destination, bell, stop = _Instant(), Bell(), asyncio.Event()
    transports = {"comments": destination}
    relay = Relay(engine, transports, owner="bench", clock=SystemClock(), bell=bell)

    async def write() -> int:
        return await _executemany(place.url, messages)

    async def drain() -> int:
        bell.ring()
        await destination.has_all()
        while await _is_any_left(engine):  # noqa: ASYNC110 - only the table tells it
            await asyncio.sleep(0.001)  # the last ones are being deleted
        return messages

    written, relayed = [], []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(relay.run(stop))
        for _ in range(rounds):
            written.append(await rate(write))
            destination.expect(messages)
            await fill(engine, messages, source="articles", to="comments")
            relayed.append(await rate(drain))
        stop.set()
    figures.add((place.name, RELAYING, EXECUTEMANY), {RATE: median(written)})
    figures.add((place.name, RELAYING, RELAY), {RATE: median(relayed)})
    await engine.dispose()


async def _is_any_left(engine: AsyncEngine) -> bool:
    async with reading(engine).connect() as connection:
        return bool((await connection.execute(_IS_LEFT)).scalar_one())


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
