"""The blog's three services as processes of their own, with articles to delete."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.deleting import ByCalls, BySaga, close_all
from benchmarks.http_client import Connection
from benchmarks.measuring import closed_loop
from outbox import sqlite, tables
from outbox.transports.http.signing import Keyring
from tests.support.databases.databases import Database, Schema, schema_named
from tests.support.processes.running import SECRET, RunningBlog, running_blog
from tests.support.processes.waiting import until

COMMENTS = 2
"""How many comments each article has."""
NAMES = ("articles", "comments", "orchestrator")

_PREPARING = 8
_KNOWN_WITHIN = 60.0
_SETTINGS = {
    # What an installation has, but for this: else 64 clients that send single calls, beside the
    # other services, are turned away.
    "SAGABOX_RECEIVE_CONCURRENCY": "80",
    "SAGABOX_POLL_INTERVAL": "1",
    "SAGABOX_DELIVERY_TIMEOUT": "4.5",
}
_TEXT = "x" * 280

Client = Callable[[str], Awaitable[None]]


class Services:
    """Made by `running`."""

    def __init__(self, blog: RunningBlog, engines: Mapping[str, AsyncEngine]) -> None:
        self._blog = blog
        self._engines = engines
        self._urls = {name: child.spec.url for name, child in blog.children.items()}
        self._numbers = itertools.count(1)

    # Who deletes

    @asynccontextmanager
    async def by_saga(self, clients: int) -> AsyncIterator[Sequence[BySaga]]:
        """So many clients, connected."""
        connections = await self._connect("orchestrator", clients)
        yield [BySaga(it) for it in connections]
        await close_all(connections)

    @asynccontextmanager
    async def by_calls(self, clients: int, calls: list[float]) -> AsyncIterator[Sequence[ByCalls]]:
        """So many clients, connected; the seconds of each call go into `calls`."""
        articles = await self._connect("articles", clients)
        comments = await self._connect("comments", clients)
        keys = Keyring.from_text(SECRET)
        yield [ByCalls(*them, keys, calls) for them in zip(articles, comments, strict=True)]
        await close_all([*articles, *comments])

    # What is deleted

    async def publish(self, count: int) -> list[str]:
        """New articles with their comments, known everywhere; their ids."""
        ids: list[str] = []

        def write(connection: Connection) -> Client:
            async def one(title: str) -> None:
                new = {"title": title, "body": _TEXT, "author": "ada"}
                ids.append((await _post(connection, "/articles", new))["id"])

            return one

        titles = [f"article {next(self._numbers)}" for _ in range(count)]
        await self._prepare("articles", titles, write)
        await self.until_idle()
        await self._prepare("comments", ids * COMMENTS, _comment)
        return ids

    async def bare_calls(self, article: str, count: int) -> Sequence[float]:
        """The seconds of each of so many calls, one after the other, that write one row in one
        transaction: a new comment."""
        connections = await self._connect("comments", 1)
        load = await closed_loop([article] * count, [_comment(it) for it in connections])
        await close_all(connections)
        return load.latencies

    async def until_idle(self) -> None:
        """Wait until every message has arrived."""

        async def nothing_left() -> bool:
            return not any([await self.count(name, tables.outbox) for name in NAMES])

        await until(nothing_left, deadline=_KNOWN_WITHIN, what="all messages have arrived")

    async def exists(self, article: str) -> bool:
        """Whether anything of the article is left to see."""
        left = (await self._blog.ask("articles", "GET", f"/articles/{article}")).status_code != 410
        return left or bool(await self._blog.comments_of(article))

    # What it took

    async def count(self, name: str, table: Table) -> int:
        """The rows of a table of that service's database."""
        async with self._engines[name].connect() as connection:
            found: int | None = await connection.scalar(select(func.count()).select_from(table))
        return found or 0

    def processor_seconds(self) -> dict[str, float]:
        """What each service's process has used of the processors since its start."""
        used = {}
        for name, child in self._blog.children.items():
            times = psutil.Process(child.pid).cpu_times()
            used[name] = times.user + times.system
        return used

    def pid(self, name: str) -> int:
        """The service's process."""
        return self._blog.children[name].pid

    async def requests(self) -> int:
        """How many batches of commands the orchestrator has sent since its start."""
        metrics = (await self._blog.ask("orchestrator", "GET", "/metrics")).text
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in metrics.splitlines()
            if line.startswith("sagabox_relay_delivery_seconds_count")
        )

    async def _connect(self, name: str, count: int) -> list[Connection]:
        return [await Connection.open(self._urls[name]) for _ in range(count)]

    async def _prepare(
        self, name: str, items: Sequence[str], work: Callable[[Connection], Client]
    ) -> None:
        connections = await self._connect(name, _PREPARING)
        await closed_loop(items, [work(it) for it in connections])
        await close_all(connections)


@asynccontextmanager
async def running(fresh: Callable[[Schema], Database], folder: Path) -> AsyncIterator[Services]:
    """The services on databases of their own, until the end of the block."""
    async with AsyncExitStack() as stack:
        blog = await stack.enter_async_context(
            running_blog(lambda schema: fresh(schema_named(schema)), folder)
        )
        blog.settings = _SETTINGS
        await asyncio.gather(*(blog.start(name) for name in NAMES))
        engines = {}
        for name, database in blog.databases.items():
            engines[name] = engine = create_async_engine(database.url)
            sqlite.configure(engine)
            stack.push_async_callback(engine.dispose)
        yield Services(blog, engines)


def _comment(connection: Connection) -> Client:
    async def one(article: str) -> None:
        new = {"article_id": article, "author": "bob", "content": _TEXT}
        await _post(connection, "/comments", new)

    return one


async def _post(connection: Connection, target: str, new: Mapping[str, str]) -> dict[str, str]:
    json = {"content-type": "application/json"}
    answer = await connection.request("POST", target, json, orjson.dumps(new))
    if answer.status != 201:
        raise RuntimeError(f"POST {target} was answered {answer.status}: {answer.body!r}")
    made: dict[str, str] = orjson.loads(answer.body)
    return made
