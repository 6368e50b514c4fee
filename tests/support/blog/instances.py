"""Several instances of articles and of comments behind one name each, which a name server tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.cli.processes.child import Child
from tests.support.discovery.dns_server import NameServer, name_server, zone
from tests.support.processes import zygote
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port, until

SEVERAL = ("articles", "comments")
_HOST = "host.test"
_Records = dict[tuple[str, str], list[str]]


@dataclass
class Instances:
    """The blog, in which each of SEVERAL may have more instances than its first one. `ports` has
    those that the name server tells, by service."""

    blog: RunningBlog
    names: NameServer
    records: _Records
    ports: dict[str, list[int]] = field(default_factory=dict)
    _count: int = 0

    async def start_all(self) -> None:
        """Two instances each, and one orchestrator."""
        self.blog.settings["SAGABOX_PEERS"] = ",".join(
            f"{name}={self.destination(name)}" for name in (*SEVERAL, "orchestrator")
        )
        for name in SEVERAL:
            self.ports[name] = [self.first_port(name)]
        await asyncio.gather(
            *(self.blog.start(name) for name in (*SEVERAL, "orchestrator")),
            *(self.add(name) for name in SEVERAL),
        )

    def destination(self, name: str) -> str:
        """What finds that service."""
        if name in SEVERAL:
            return f"http+srv://_{name}._tcp.test?server={self.names.address}"
        return self.blog.url(name)

    def first_port(self, name: str) -> int:
        """The port of the instance that people use."""
        return int(self.blog.url(name).rpartition(":")[2])

    async def add(self, name: str, *, database_url: str | None = None) -> str:
        """Start another instance, and tell its address; its name among the children. With an
        address of a database it is a stranger."""
        self._count += 1
        port, label = free_port(), f"{name}-{self._count + 1}"
        given: Mapping[str, str] = {}
        if database_url is not None:
            given = {f"SAGABOX_DATABASE_URL_{name.upper()}": database_url}
        spec = self.blog._spec(name, given)
        spec = replace(
            spec,
            name=label,
            command=(*spec.command, "--port", str(port)),
            environment={**spec.environment, **given},
            url=f"http://127.0.0.1:{port}",
            log=spec.log.with_name(f"{label}.log"),
        )
        child = self.blog.children[label] = await zygote.start(spec)
        await child.ready()
        self.tell(name, [*self.ports[name], port])
        return label

    def child(self, label: str) -> Child:
        """The process of that instance."""
        return self.blog.children[label]

    async def move(self, name: str, label: str) -> str:
        """Start another instance in the place of that one, whose address is told no more and which
        is killed before all have heard of it."""
        new = await self.add(name)
        gone = int(self.child(label).spec.url.rpartition(":")[2])
        self.tell(name, [it for it in self.ports[name] if it != gone])
        await self.child(label).kill()
        return new

    async def restart(self, label: str) -> None:
        """Start a killed instance again, at its old address."""
        if label in SEVERAL:
            await self.blog.start(label)
            return
        self.blog.children[label] = child = await zygote.start(self.child(label).spec)
        await child.ready()

    def tell(self, name: str, ports: list[int]) -> None:
        """Let the name server tell these ports from now."""
        self.ports[name] = ports
        self.records[f"_{name}._tcp.test", "SRV"] = [f"0 1 {it} {_HOST}." for it in ports]

    async def seen(self, name: str) -> Mapping[str, Any]:
        """How the orchestrator sees that service."""
        answer = await self.blog.ask("orchestrator", "GET", "/participants")
        assert answer.status_code == 200, answer.text
        found: Mapping[str, Any] = next(it for it in answer.json()["items"] if it["name"] == name)
        return found

    async def until_seen(self, name: str, address: str) -> None:
        """Wait until the orchestrator has found that address."""

        async def is_so() -> bool:
            return any(it["address"] == address for it in (await self.seen(name))["addresses"])

        await until(is_so, deadline=30, what=f"the orchestrator finds {address}")


@asynccontextmanager
async def instances(blog: RunningBlog) -> AsyncIterator[Instances]:
    """The name server runs; the test starts the services."""
    records: _Records = {(_HOST, "A"): ["127.0.0.1"]}
    async with name_server(zone(records)) as names:
        yield Instances(blog, names, records)
