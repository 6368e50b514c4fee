"""The blog behind one Envoy, with several instances of each service: people come by its public
address, messages by the other one, and a name server tells the instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.cli.processes.child import Child
from tests.support.blog.fronts import fronts_at, open_to_people
from tests.support.discovery.dns_server import NameServer, name_server, zone
from tests.support.mesh import rendering
from tests.support.mesh.envoy import Envoy, running_envoy
from tests.support.mesh.rendering import Config, Socket
from tests.support.processes import zygote
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port

SERVICES = ("orchestrator", "articles", "comments")
PORTS = {"orchestrator": 8000, "articles": 8001, "comments": 8002}
"""Those of the files; gRPC has them plus 100."""
FIRST = "127.0.0.1"
_LOOPBACK = "127.0.0.{}"


@dataclass
class Mesh:
    """The blog, the Envoy before it, and the name server that both could have in production.

    Instances of one service have addresses of their own, all with the service's port, as containers
    have. `hosts` has those that the name server tells, by name."""

    blog: RunningBlog
    envoy: Envoy
    public: str
    messages: str
    names: NameServer
    records: dict[tuple[str, str], list[str]]
    hosts: dict[str, list[str]] = field(default_factory=dict)
    _count: int = 0

    async def start_all(self, *, each: int = 2) -> None:
        """So many instances of each service; Envoy uses them."""
        scheme = "grpc" if self.blog.way_to("articles").startswith("grpc") else "http"
        peers = ",".join(f"{name}={scheme}://{self.messages}" for name in SERVICES)
        self.blog.settings |= {"SAGABOX_PEERS": peers, **open_to_people(self.public)}
        for name in SERVICES:
            self.tell(name, [FIRST])
        await asyncio.gather(*(self.blog.start(name) for name in SERVICES))
        for _ in range(each - 1):
            await asyncio.gather(*(self.add(name) for name in SERVICES))
        await self.until_well()
        self.blog.fronts = await fronts_at(self.public, self.blog)

    async def add(self, name: str, *, told_as: str | None = None) -> str:
        """Start another instance, and tell its address, under that name or under its service's; its
        label among the children."""
        self._count += 1
        host = _LOOPBACK.format(10 + self._count)
        label = f"{name}-{self._count + 1}"
        await self._start(name, label, host)
        as_ = told_as or name
        self.tell(as_, [*self.hosts.get(as_, ()), host])
        return label

    def child(self, label: str) -> Child:
        """The process of that instance."""
        return self.blog.children[label]

    def host(self, label: str) -> str:
        """The address of that instance."""
        return self.child(label).spec.url.removeprefix("http://").partition(":")[0]

    def last(self, name: str) -> str:
        """The label of the instance that was added last."""
        return [it for it in self.blog.children if it.startswith(f"{name}-")][-1]

    async def restart(self, label: str) -> None:
        """Start a killed instance again, at its old address."""
        self.blog.children[label] = child = await zygote.start(self.child(label).spec)
        await child.ready()

    def tell(self, name: str, hosts: list[str]) -> None:
        """Let the name server tell these addresses from now."""
        self.hosts[name] = hosts
        self.records[name, "A"] = hosts

    async def until_well(self, *names: str) -> None:
        """Wait until Envoy uses all instances that are told."""
        for name in names or SERVICES:
            await self.envoy.until_well(name, *self.hosts[name])

    async def _start(self, name: str, label: str, host: str) -> None:
        spec = self.blog._spec(name, {"SAGABOX_GRPC_HOST": host})
        spec = replace(
            spec,
            name=label,
            command=(*spec.command, "--host", host),
            url=f"http://{host}:{self.port(name)}",
            log=spec.log.with_name(f"{label}.log"),
        )
        child = self.blog.children[label] = await zygote.start(spec)
        await child.ready()

    def port(self, name: str) -> int:
        """The port of all instances of that service."""
        return int(self.blog.url(name).rpartition(":")[2])


def edge_before(
    blog: RunningBlog, names: NameServer, *, public: int, messages: int, admin: int
) -> Config:
    """`edge.yaml` for this blog: its ports, and the name server of the test."""
    sockets: dict[Socket, Socket] = {
        ("127.0.0.1", 9901): ("127.0.0.1", admin),
        ("0.0.0.0", 8080): ("127.0.0.1", public),
        ("0.0.0.0", 8081): ("127.0.0.1", messages),
    }
    for name, port in PORTS.items():
        sockets[name, port] = (name, int(blog.url(name).rpartition(":")[2]))
        way = blog.way_to(name)
        sockets[name, port + 100] = (name, int(way.rpartition(":")[2]))
    config = rendering.told_at_once(rendering.placed(rendering.read("edge.yaml"), sockets))
    return rendering.resolved_at(config, names.port)


@asynccontextmanager
async def meshed(
    blog: RunningBlog, folder: Path, change: Callable[[Config], Config] = lambda it: it
) -> AsyncIterator[Mesh]:
    """Envoy runs as the edge, with what `change` makes of its configuration; the test starts the
    services."""
    records: dict[tuple[str, str], list[str]] = {}
    public, messages, admin = free_port(), free_port(), free_port()
    async with name_server(zone(records)) as names:
        ports: Mapping[str, int] = {"public": public, "messages": messages, "admin": admin}
        config = change(edge_before(blog, names, **ports))
        async with running_envoy(config, folder) as envoy:
            yield Mesh(
                blog,
                envoy,
                f"http://127.0.0.1:{public}",
                f"127.0.0.1:{messages}",
                names,
                records,
            )
