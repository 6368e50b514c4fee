"""procrastinate: a job deferred in the transaction, and a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.contenders.programs.roles import TEXT, Ears, play

_CONCURRENCY = 16


def _app(database: str, ears: Ears | None) -> tuple[App, Any]:
    app = App(connector=PsycopgConnector(conninfo=database))

    @app.task(name="noted")
    async def noted(key: str, text: str) -> None:
        if ears is not None:
            await ears.hear(key)

    return app, noted


async def prepare(database: str) -> None:
    """Make the tables."""
    app, _ = _app(database, None)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute("CREATE TABLE work (id bigserial PRIMARY KEY, text text)")


@asynccontextmanager
async def writing(database: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Write a row and a job in a transaction."""
    app, noted = _app(database, None)
    async with app.open_async(), await psycopg.AsyncConnection.connect(database) as connection:

        async def write(key: str) -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO work (text) VALUES (%s)", [TEXT])
                await noted.configure(connection=connection).defer_async(key=key, text=TEXT)

        await connection.set_autocommit(True)
        yield write


async def listening(database: str, ears: Ears) -> None:
    """Work for ever. Jobs that are done are deleted."""
    app, _ = _app(database, ears)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=_CONCURRENCY,
            delete_jobs="successful",
            install_signal_handlers=False,
        )


if __name__ == "__main__":
    uvloop.run(play(prepare, writing, listening))
