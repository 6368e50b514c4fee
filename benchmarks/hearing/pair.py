"""Both services with their databases."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.hearing.services import HEARER, TALKER, heard, schema
from benchmarks.places import Place
from orchestrator.cli.processes.child import Child, Spec
from outbox import sqlite
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port, until


class Pair:
    """Made by `prepared`. No service runs before it is started."""

    def __init__(self, place: Place, databases: Mapping[str, Database]) -> None:
        self._place = place
        self._databases = databases
        self._ports = {name: free_port() for name in databases}
        self.engines: dict[str, AsyncEngine] = {}
        for name, database in databases.items():
            self.engines[name] = create_async_engine(database.url)
            sqlite.configure(self.engines[name])

    def url(self, name: str) -> str:
        """Where that service listens."""
        return f"http://127.0.0.1:{self._ports[name]}"

    async def start(
        self, name: str, more: Mapping[str, str] | None = None, *, at: int | None = None
    ) -> Child:
        """Start the service, with more in its environment; it is ready. With a port it is another
        instance of it."""
        port = self._ports[name] if at is None else at
        environment = {
            "BENCH_DATABASE_URL": self._databases[name].url,
            "SAGABOX_PEERS": ",".join(f"{it}={self.url(it)}" for it in self._ports if it != name),
            "SAGABOX_SECRETS": SECRET,
            "PYTHONPATH": str(ROOT),
            **(more or {}),
        }
        spec = Spec(
            name=name,
            command=(
                *(sys.executable, "-m", "benchmarks.hearing.services"),
                *(name, str(port)),
            ),
            environment={**os.environ, **environment},
            url=f"http://127.0.0.1:{port}",
            log=self._place.folder / f"{name}-{port}.log",
        )
        child = await Child.start(spec)
        await child.ready()
        return child

    async def heard(self) -> Mapping[str, float]:
        """When each event was heard that was."""
        async with self.engines[HEARER].connect() as connection:
            rows = await connection.execute(select(heard.c.key, heard.c.at))
        return {key: at for key, at in rows}

    async def any_heard(self) -> bool:
        """Whether anything was heard."""
        return await self._count() > 0

    async def until_heard(self, count: int, within: float) -> None:
        """Return as soon as so many were heard since the beginning."""

        async def all_of_them() -> bool:
            return await self._count() >= count

        await until(all_of_them, within, what=f"{count} events were heard")

    async def _count(self) -> int:
        async with self.engines[HEARER].connect() as connection:
            found = await connection.scalar(select(func.count()).select_from(heard))
        return found or 0


@asynccontextmanager
async def prepared(place: Place) -> AsyncIterator[Pair]:
    """The pair on databases of its own; what was started is stopped at the end of the block by
    those who started it."""
    async with AsyncExitStack() as stack:
        pair = Pair(place, {name: place.fresh(schema) for name in (TALKER, HEARER)})
        for engine in pair.engines.values():
            stack.push_async_callback(engine.dispose)
        yield pair


@asynccontextmanager
async def running(place: Place) -> AsyncIterator[Pair]:
    """The same, and both services run until the end of the block."""
    async with prepared(place) as pair, AsyncExitStack() as stack:
        for name in (HEARER, TALKER):
            child = await pair.start(name)
            stack.push_async_callback(child.stop)
        yield pair
