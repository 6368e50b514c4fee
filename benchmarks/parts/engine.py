"""What the engine itself costs: participants answer at once, in the same process."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import orjson
import psycopg
from sqlalchemy import func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from articles.contract import DeleteArticle, HideArticle
from benchmarks.blog.deleting import STEPS, new_id
from benchmarks.figures import Figures
from benchmarks.measuring import Load, closed_loop, median
from benchmarks.names import ENGINE, INSERTS, RATE, STARTS
from benchmarks.places import Place
from comments.contract import CloseThread, PurgeThread
from orchestrator.engine.settings import EngineSettings
from orchestrator.sagas.delete_article import Deletion, delete_article
from orchestrator.tables import saga
from outbox.replies import Outcome, Reply
from outbox.transports.base import Answered, Delivery, Unreachable
from outbox.wire.envelope import Envelope
from tests.support.databases import binaries
from tests.support.databases.databases import Database, configured
from tests.support.orchestrator.engines import Node, orchestrator_tables, running
from tests.support.processes.waiting import until

CLIENTS = 64
_SECONDS = 2.0
_PATIENCE = 30.0
_PAYLOAD = "x" * 280

_VALUES = {
    str(HideArticle.message_type): {"title": "Tides", "version": 1},
    str(CloseThread.message_type): {"comments": 2},
    str(DeleteArticle.message_type): {"deleted_at": "2030-01-01T12:00:00Z"},
    str(PurgeThread.message_type): {"comments": 2},
}


@dataclass
class Costs:
    """One value for each round. Times are in seconds."""

    processor: list[float] = field(default_factory=list)
    """Of this process, for each step."""
    commits: list[float] = field(default_factory=list)
    """For each saga."""
    rate: list[float] = field(default_factory=list)
    """Whole sagas a second."""
    starts: list[float] = field(default_factory=list)
    """Starts a second."""
    inserts: list[float] = field(default_factory=list)
    """Single rows a second, a transaction each."""


async def measure(
    place: Place, figures: Figures, sagas: int, rounds: int, seconds: float = _SECONDS
) -> None:
    """`sagas` whole ones and as many starts in each round, 64 at once; and for `seconds` the
    fastest client there is inserting single rows, as many at once as the database takes."""
    costs = Costs()
    for _ in range(rounds):
        await _run_sagas(place.fresh(orchestrator_tables), sagas, costs)
        started = await _start_sagas(place.fresh(orchestrator_tables), sagas)
        costs.starts.append(started.rate)
        costs.inserts.append(await asyncio.to_thread(_insert_rows, place.url, seconds))
    for row, values in {
        "whole sagas": {
            RATE: costs.rate,
            "processor ms a step": [it * 1000 for it in costs.processor],
            "commits each": costs.commits,
        },
        STARTS: {RATE: costs.starts},
        INSERTS: {RATE: costs.inserts},
    }.items():
        medians = {column: median(each) for column, each in values.items()}
        figures.add((place.name, ENGINE, row), medians)


class _Instant:
    """A participant that answers at once. `purged` has those who wait for a saga's last step."""

    def __init__(self) -> None:
        self.purged: dict[str, asyncio.Event] = {}

    async def deliver(self, envelopes: Sequence[Envelope]) -> Delivery:
        last = str(PurgeThread.message_type)
        for envelope in envelopes:
            # Commands of a saga are ordered by the saga; the article stands in the payload.
            if envelope.type == last:
                self.purged[orjson.loads(envelope.data)["article_id"]].set()
        return Answered([Reply(Outcome.DONE, _VALUES.get(it.type)) for it in envelopes])

    async def aclose(self) -> None:
        """Nothing is open."""


class _Silent:
    """A participant that takes no command before it is told to give up: sagas only start."""

    def __init__(self) -> None:
        self.gives_up = asyncio.Event()

    async def deliver(self, _envelopes: Sequence[Envelope]) -> Delivery:
        await self.gives_up.wait()
        return Unreachable("it is away", sent=True)

    async def aclose(self) -> None:
        """Nothing is open."""


async def _run_sagas(database: Database, sagas: int, costs: Costs) -> None:
    participant = _Instant()

    def client(node: Node) -> Callable[[str], Awaitable[None]]:
        async def one(article: str) -> None:
            participant.purged[article] = purged = asyncio.Event()
            await node.engine.start(delete_article, Deletion(article))
            async with asyncio.timeout(_PATIENCE):
                await purged.wait()

        return one

    engine = configured(create_async_engine(database.url))
    transports = {"articles": participant, "comments": participant}
    async with running(engine, [delete_article], transports, settings=EngineSettings()) as node:
        clients = [client(node)] * CLIENTS
        await closed_loop([new_id() for _ in range(CLIENTS)], clients)
        await _until_ended(node)
        before, commits = time.process_time(), node.engine.stats.commits
        load = await closed_loop([new_id() for _ in range(sagas)], clients)
        await _until_ended(node)
        costs.processor.append((time.process_time() - before) / sagas / STEPS)
        costs.commits.append((node.engine.stats.commits - commits) / sagas)
        costs.rate.append(load.rate)
    await engine.dispose()


async def _start_sagas(database: Database, sagas: int) -> Load:
    participant = _Silent()
    engine = configured(create_async_engine(database.url))
    transports = {"articles": participant, "comments": participant}
    async with running(engine, [delete_article], transports, settings=EngineSettings()) as node:

        async def one(article: str) -> None:
            await node.engine.start(delete_article, Deletion(article))

        await closed_loop([new_id() for _ in range(CLIENTS)], [one] * CLIENTS)
        load = await closed_loop([new_id() for _ in range(sagas)], [one] * CLIENTS)
        participant.gives_up.set()
    await engine.dispose()
    return load


async def _until_ended(node: Node) -> None:
    left = select(func.count()).select_from(saga).where(saga.c.ended_at.is_(None))

    async def ended() -> bool:
        async with node.database.reading.connect() as connection:
            return not await connection.scalar(left)

    await until(ended, deadline=30, what="all sagas have ended")


def _insert_rows(url: str, seconds: float) -> float:
    """Rows a second."""
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        return _insert_into_postgres(address, seconds)
    return _insert_into_sqlite(str(address.database), seconds)


def _insert_into_postgres(address: URL, seconds: float) -> float:
    with psycopg.connect(
        host=address.host, port=address.port, user=address.username, dbname=address.database
    ) as connection:
        connection.execute("DROP TABLE IF EXISTS plain")
        connection.execute("CREATE TABLE plain (id bigserial PRIMARY KEY, payload text)")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"INSERT INTO plain (payload) VALUES ('{_PAYLOAD}');\n")
        script.flush()
        # The plain protocol of each statement is that of an ordinary client.
        told = subprocess.run(
            [
                *(binaries.from_wheel().folder / "pgbench", "--no-vacuum", "--file", script.name),
                *("--client", str(CLIENTS), "--jobs", "2", "--time", str(max(1, round(seconds)))),
                *("--host", str(address.host), "--port", str(address.port)),
                *("--username", str(address.username), str(address.database)),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    rate = re.search(r"tps = ([0-9.]+)", told)
    assert rate is not None, f"pgbench said {told!r}"
    return float(rate[1])


def _insert_into_sqlite(path: str, seconds: float) -> float:
    # One at a time: SQLite has one writer.
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("DROP TABLE IF EXISTS plain")
        connection.execute("CREATE TABLE plain (id integer PRIMARY KEY, payload text)")
        connection.commit()
        began = time.perf_counter()
        done = 0
        while time.perf_counter() - began < seconds:
            connection.execute("INSERT INTO plain (payload) VALUES (?)", (_PAYLOAD,))
            connection.commit()
            done += 1
        return done / (time.perf_counter() - began)
    finally:
        connection.close()
