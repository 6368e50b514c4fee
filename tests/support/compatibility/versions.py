"""The blog in which each process is of the released version or of this one."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from migrations import commands
from migrations.history import Kind, history_of
from migrations.services import SERVICES
from orchestrator.cli.processes.child import Child, Spec
from outbox.clock import SystemClock
from tests.support.compatibility.balancer import Balancer, balancing
from tests.support.compatibility.released import Release
from tests.support.databases.databases import Database
from tests.support.databases.migrating import address, at
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.saga_writers import rows
from tests.support.processes import zygote
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port, until

_NAMES = ("orchestrator", "articles", "comments")
_START = 120.0  # seconds until a process is ready, at most: eight may start at once


class Version(Enum):
    """Which code a process runs."""

    RELEASED = "released"
    THIS = "this"


class VersionedBlog(RunningBlog):
    """Each service may have several instances, which callers and services reach through balancers
    in front of them. A caller's connection is for one request.

    While `gate` is closed, no command of a saga reaches comments. Modules in the folder `own` can
    be imported by each process.
    """

    def __init__(
        self,
        databases: Mapping[str, Database],
        folder: Path,
        client: httpx.AsyncClient,
        release: Release,
    ) -> None:
        super().__init__(databases, folder, client)
        self.own: Path | None = None
        self._release = release
        self._numbers = itertools.count(1)
        self._names: dict[str, str] = {}
        targets: dict[str, list[int]] = {name: [] for name in _NAMES}
        self._targets = targets
        self._fronts = {name: Balancer(free_port(), targets[name]) for name in _NAMES}
        self._inner = [Balancer(self._blog.ports[name], targets[name]) for name in _NAMES]
        self.gate = Balancer(free_port(), targets["comments"])
        self.participants = {
            "articles": self.url("articles"),
            "comments": f"http://127.0.0.1:{self.gate.port}",
        }

    @property
    def balancers(self) -> Sequence[Balancer]:
        """All that have to listen."""
        return [*self._fronts.values(), *self._inner, self.gate]

    async def ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to a service's public address."""
        url = f"http://127.0.0.1:{self._fronts[name].port}{path}"
        return await self._client.request(method, url, **options)

    async def add(self, name: str, version: Version) -> str:
        """Start another instance; its label among the children. It is ready, and gets requests."""
        port, label = free_port(), f"{name}-{next(self._numbers)}"
        spec = self._spec(name, {})
        spec = replace(
            spec,
            name=label,
            command=(*spec.command, "--port", str(port)),
            url=f"http://127.0.0.1:{port}",
        )
        self.children[label] = child = await self._begin(spec, version)
        await child.ready(_START)
        self._names[label] = name
        self._targets[name].append(port)
        return label

    async def add_all(self, version: Version) -> Sequence[str]:
        """One instance of each service."""
        return await asyncio.gather(*(self.add(name, version) for name in _NAMES))

    async def retire(self, label: str) -> None:
        """Take an instance out of the balancers, and stop it when it has answered its callers."""
        child, name = self.children.pop(label), self._names[label]
        port = int(child.spec.url.rpartition(":")[2])
        self._targets[name].remove(port)
        await self._fronts[name].until_left(port)
        code = await child.stop()
        assert code == 0, f"{label} ended with {child.ending}:\n{self.log(name)[-4000:]}"

    async def kill(self, *labels: str) -> None:
        """End instances with SIGKILL."""
        for label in labels:
            child = self.children.pop(label)
            await child.kill()
            self._targets[self._names[label]].remove(int(child.spec.url.rpartition(":")[2]))

    def name_of(self, label: str) -> str:
        """Of which service the instance is one."""
        return self._names[label]

    async def until_it_has_shards(self, label: str) -> None:
        """Wait until an orchestrator on PostgreSQL carries runs."""
        pid = self.children[label].pid
        query = (
            "SELECT 1 FROM outbox_lease WHERE destination = 'sagas:shards' "
            f"AND split_part(owner, ':', 2) = '{pid}' AND expires_at > clock_timestamp()"
        )
        await until(lambda: rows(self.databases["orchestrator"], query), 60, f"{label} has shards")

    def under_way(self) -> frozenset[str]:
        """The runs that have not ended."""
        query = "SELECT id FROM saga WHERE ended_at IS NULL"
        found = rows(self.databases["orchestrator"], query)
        # SQLite has them without their hyphens.
        return frozenset(str(UUID(str(it))) for (it,) in found)

    async def stop(self) -> None:
        """Stop what runs."""
        await asyncio.gather(*(child.stop() for child in self.children.values()))

    async def warm_up(self) -> None:
        """Fork once: the first fork waits for all imports, and would hold up the balancers and the
        callers, which this event loop serves, until a service has given up their connections."""
        spec = self._spec("orchestrator", {})
        command = (*spec.command[: spec.command.index("serve")], "version")
        child = await zygote.start(replace(spec, name="version", command=command))
        assert await child.wait() == 0

    async def make_tables(self) -> None:
        """The tables in the empty databases, by the migrations of the released version."""
        variables = {SERVICES[it].variable: address(self.databases[it]) for it in self.databases}
        await self.run_released("migrate", "upgrade", **variables)

    async def run_released(self, *arguments: str, **variables: str) -> str:
        """What `sagabox` of the released version prints. Fails the test where it does."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "orchestrator.cli", *arguments),
            env={**self._release.environment(os.environ), **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await asyncio.wait_for(process.communicate(), _START)
        assert process.returncode == 0, told.decode()
        return told.decode()

    async def expand(self, *names: str) -> None:
        """Upgrade the databases of these services, or of all, with this version's revisions, up to
        the first `contract`."""
        for name in names or _NAMES:
            service, where = SERVICES[name], at(self.databases[name])
            here = (await commands.current(service, where)).current
            history = history_of(service)
            coming = history.revisions[history.position(here) :]
            expanding = [*itertools.takewhile(lambda it: it.kind is Kind.EXPAND, coming)]
            if expanding:
                await commands.upgrade(service, where, expanding[-1].id, clock=SystemClock())

    async def _begin(self, spec: Spec, version: Version) -> Child:
        environment = dict(spec.environment)
        if version is Version.RELEASED:
            environment = self._release.environment(environment)
        if self.own is not None:
            environment["PYTHONPATH"] += f"{os.pathsep}{self.own}"
        begin = zygote.start if version is Version.THIS else Child.start
        return await begin(replace(spec, environment=environment))


@asynccontextmanager
async def versioned_blog(
    make: DatabaseFactory, folder: Path, release: Release
) -> AsyncIterator[VersionedBlog]:
    """The databases have the tables of the released version; the test starts the instances."""
    databases = {name: make("empty") for name in _NAMES}
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=20, trust_env=False, limits=limits) as client:
        blog = VersionedBlog(databases, folder, client, release)
        async with balancing(*blog.balancers):
            await asyncio.gather(blog.make_tables(), blog.warm_up())
            try:
                yield blog
            finally:
                await blog.stop()
