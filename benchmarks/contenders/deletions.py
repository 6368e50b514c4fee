"""Those who delete articles, each with the same participants and under one interface."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.blog.deleting import ByCalls, BySaga
from benchmarks.blog.services import Services, close_all
from benchmarks.contenders import program, restate
from benchmarks.contenders.installed import ENVIRONMENTS
from benchmarks.measuring import Load, closed_loop
from benchmarks.names import BARE, DBOS, ORDINARY, PLAIN, RESTATE, SAGAS
from benchmarks.places import Place
from outbox.transports.http.signing import Keyring
from tests.support.databases.databases import Database, schema_named

_folders = itertools.count(1)


class Deleter(Protocol):
    """One contender that runs."""

    @property
    def processes(self) -> Mapping[str, int]:
        """Its processes beside the services, by name."""

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        """Delete them, so many at once."""


Running = Callable[[Services, Place, int], AbstractAsyncContextManager[Deleter]]


@dataclass(frozen=True)
class Contender:
    """One way to delete articles. `running(services, place, clients)` starts it, or raises Missing;
    the services are those with list handlers, unless `is_ordinary`. `share` is how many articles
    it deletes where sagas delete 1, so that each takes about as long."""

    name: str
    running: Running
    share: float
    is_ordinary: bool = False
    runs_on_sqlite: bool = True


class _Sagas:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.processes: Mapping[str, int] = {}

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        connections = await self._services.connect("orchestrator", clients)
        load = await closed_loop(articles, [BySaga(it) for it in connections])
        await close_all(connections)
        return load


class _BareCalls:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.processes: Mapping[str, int] = {}
        self.calls: list[float] = []
        """The seconds of each call."""

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        there = await self._services.connect("articles", clients)
        here = await self._services.connect("comments", clients)
        keys = Keyring.from_text(self._services.secret)
        callers = [ByCalls(*pair, keys) for pair in zip(there, here, strict=True)]
        load = await closed_loop(articles, callers)
        self.calls = [seconds for caller in callers for seconds in caller.calls]
        await close_all([*there, *here])
        return load


class _Program:
    def __init__(self, name: str, running: program.Program) -> None:
        self._running = running
        self.processes: Mapping[str, int] = {name: running.pid}

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        return await self._running.delete(articles, clients)


@asynccontextmanager
async def _sagas(services: Services, _place: Place, _clients: int) -> AsyncIterator[Deleter]:
    yield _Sagas(services)


@asynccontextmanager
async def bare_calls(services: Services, _place: Place, _clients: int) -> AsyncIterator[_BareCalls]:
    """A client that speaks HTTP with hardly any code in between; it notes each call's time."""
    yield _BareCalls(services)


@asynccontextmanager
async def _plain_calls(services: Services, place: Place, clients: int) -> AsyncIterator[Deleter]:
    settings = _told(services, clients)
    log = place.folder / "plain-calls.log"
    async with program.running("plain_calls", settings, log) as running:
        yield _Program(PLAIN, running)


@asynccontextmanager
async def _dbos(services: Services, place: Place, clients: int) -> AsyncIterator[Deleter]:
    database = place.fresh(schema_named("empty"))
    settings = _told(services, clients) | {"database": _without_driver(database)}
    log, environment = place.folder / "dbos.log", ENVIRONMENTS["dbos"]
    async with program.running("dbos_deletion", settings, log, environment) as running:
        yield _Program(DBOS, running)


@asynccontextmanager
async def _restate(services: Services, place: Place, clients: int) -> AsyncIterator[Deleter]:
    folder = place.folder / f"restate-{next(_folders)}"
    async with restate.running(services, folder, clients) as running:
        yield running


def _told(services: Services, clients: int) -> dict[str, object]:
    return {
        "addresses": {name: services.url(name) for name in ("articles", "comments")},
        "secret": services.secret,
        "clients": clients,
    }


def _without_driver(database: Database) -> str:
    return database.sync_url.replace("+psycopg", "")


CONTENDERS = (
    Contender(SAGAS, _sagas, 1),
    Contender(ORDINARY, _sagas, 0.6, is_ordinary=True),
    Contender(BARE, bare_calls, 0.4),
    Contender(PLAIN, _plain_calls, 0.3),
    Contender(DBOS, _dbos, 0.2, runs_on_sqlite=False),
    Contender(RESTATE, _restate, 0.3, runs_on_sqlite=False),
)
"""All of them. Restate keeps its own store; its participants are on PostgreSQL."""
