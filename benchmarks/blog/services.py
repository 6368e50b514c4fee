"""The blog's three services as processes of their own, with articles to delete."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
from sqlalchemy import ColumnElement, Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.http_client import Connection
from benchmarks.measuring import Load, closed_loop
from orchestrator.cli.processes.blog import SAGABOX, Blog
from orchestrator.cli.processes.child import Child
from outbox import sqlite, tables
from tests.support.blog.blog import articles_schema, comments_schema
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.processes.running import SECRET
from tests.support.processes.waiting import free_port, until

COMMENTS = 2
"""How many comments each article has."""
NAMES = ("articles", "comments", "orchestrator")

_ORDINARY = (sys.executable, "-m", "benchmarks.blog.ordinary")
_PREPARING = 8
_KNOWN_WITHIN = 60.0
_SETTINGS = {
    # What an installation has, but for this: else 64 clients that send single calls, beside the
    # other services, are turned away.
    "SAGABOX_RECEIVE_CONCURRENCY": "200",
    "SAGABOX_POLL_INTERVAL": "1",
    "SAGABOX_DELIVERY_TIMEOUT": "4.5",
    "SAGABOX_LOG_LEVEL": "warning",
    "PYTHONPATH": str(ROOT),
}
_TEXT = "x" * 280

Client = Callable[[str], Awaitable[None]]

launch = Child.start
"""Starts a service."""


class Services:
    """Made by `running`."""

    def __init__(
        self,
        blog: Blog,
        children: Mapping[str, Child],
        engines: Mapping[str, AsyncEngine],
    ) -> None:
        self.blog = blog
        self.secret = blog.secret
        self.children = children
        self.engines = engines
        self._numbers = itertools.count(1)

    def url(self, name: str) -> str:
        """Where that service listens."""
        return self.blog.url(name)

    @property
    def pids(self) -> Mapping[str, int]:
        """Their processes, by name."""
        return {name: child.pid for name, child in self.children.items()}

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

    async def comment(self, article: str, count: int, clients: int) -> Load:
        """So many calls that write one row in one transaction each: new comments."""
        connections = await self.connect("comments", clients)
        load = await closed_loop([article] * count, [_comment(it) for it in connections])
        await close_all(connections)
        return load

    async def until_idle(self) -> None:
        """Wait until every message has arrived."""

        async def nothing_left() -> bool:
            return not any([await self.count(name, tables.outbox) for name in NAMES])

        await until(nothing_left, deadline=_KNOWN_WITHIN, what="all messages have arrived")

    async def is_gone(self, article: str) -> bool:
        """Whether nothing of the article is left to see."""
        connection = await Connection.open(self.url("articles"))
        answer = await connection.request("GET", f"/articles/{article}", {})
        await connection.close()
        return answer.status == 410

    # What it took

    async def count(self, name: str, table: Table, where: ColumnElement[bool] | None = None) -> int:
        """The rows of a table of that service's database; those for which the condition holds."""
        counted = select(func.count()).select_from(table)
        async with self.engines[name].connect() as connection:
            found = await connection.scalar(counted if where is None else counted.where(where))
        return found or 0

    async def requests(self) -> int:
        """How many POST requests the three services have answered since their start."""
        return sum([await self._requests(name) for name in NAMES])

    async def _requests(self, name: str) -> int:
        connection = await Connection.open(self.url(name))
        metrics = (await connection.request("GET", "/metrics", {})).body.decode()
        await connection.close()
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in metrics.splitlines()
            if line.startswith("sagabox_http_request_seconds_count") and 'method="POST"' in line
        )

    async def connect(self, name: str, count: int) -> list[Connection]:
        """So many connections to that service."""
        return [await Connection.open(self.url(name)) for _ in range(count)]

    async def _prepare(
        self, name: str, items: Sequence[str], work: Callable[[Connection], Client]
    ) -> None:
        connections = await self.connect(name, _PREPARING)
        await closed_loop(items, [work(it) for it in connections])
        await close_all(connections)


@asynccontextmanager
async def running(
    fresh: Callable[[Schema], Database], folder: Path, *, ordinary: bool = False
) -> AsyncIterator[Services]:
    """The services on databases of their own, until the end of the block. Their handlers are the
    blog's own, which take lists, or `ordinary` ones."""
    databases = {
        "articles": fresh(articles_schema),
        "comments": fresh(comments_schema),
        "orchestrator": fresh(orchestrator_schema),
    }
    blog = Blog(
        databases={name: database.url for name, database in databases.items()},
        ports={name: free_port() for name in databases},
        secret=SECRET,
        logs=folder / ("ordinary" if ordinary else "lists"),
    )
    async with AsyncExitStack() as stack:
        children = {}
        for name in NAMES:
            children[name] = child = await start(blog, name, ordinary=ordinary)
            stack.push_async_callback(child.stop)
        await asyncio.gather(*(child.ready() for child in children.values()))
        engines = {}
        for name, database in databases.items():
            engines[name] = engine = create_async_engine(database.url)
            sqlite.configure(engine)
            stack.push_async_callback(engine.dispose)
        yield Services(blog, children, engines)


async def start(blog: Blog, name: str, *, ordinary: bool = False, port: int | None = None) -> Child:
    """One service, which may not be ready yet; with a `port`, another one of that name."""
    spec = blog.spec(name, extra=_SETTINGS)
    if port is not None:
        spec = replace(
            spec,
            name=f"{name}-{port}",
            command=(*spec.command, "--port", str(port)),
            url=f"http://127.0.0.1:{port}",
        )
    if ordinary:
        spec = replace(spec, command=(*_ORDINARY, *spec.command[len(SAGABOX) :]))
    return await launch(spec)


async def close_all(connections: Sequence[Connection]) -> None:
    """Close them."""
    for connection in connections:
        await connection.close()


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
