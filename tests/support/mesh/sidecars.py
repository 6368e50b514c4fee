"""The blog with a sidecar beside each service: messages leave and come in by mutual TLS alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mesh import rendering
from tests.support.mesh.certificates import Authority
from tests.support.mesh.envoy import Envoy, running_envoy
from tests.support.mesh.rendering import Config, Socket
from tests.support.processes.running import RunningBlog
from tests.support.processes.waiting import free_port

SERVICES = ("orchestrator", "articles", "comments")


@dataclass(frozen=True)
class Sidecar:
    """One sidecar, and the ports of both its sides."""

    envoy: Envoy
    inbound: int
    outbound: int


@dataclass(frozen=True)
class Sidecars:
    """The sidecars by their services. `authority` has signed their certificates, which are in
    `folders`."""

    of: Mapping[str, Sidecar]
    authority: Authority
    folders: Mapping[str, Path]

    def inbound(self, name: str, scheme: str = "https") -> str:
        """Where others reach that service."""
        return f"{scheme}://127.0.0.1:{self.of[name].inbound}"


@asynccontextmanager
async def beside(blog: RunningBlog, folder: Path) -> AsyncIterator[Sidecars]:
    """All services and their sidecars run; each service sends to its own sidecar."""
    authority = Authority("an authority", folder / "tls")
    folders = {name: authority.folder_of(f"spiffe://sagabox/{name}") for name in SERVICES}
    inbound = {name: free_port() for name in SERVICES}
    scheme = blog.way_to("articles").partition("://")[0]
    of: dict[str, Sidecar] = {}
    async with AsyncExitStack() as stack:
        for name in SERVICES:
            outbound = free_port()
            config = rendering.texts_replaced(
                _config(blog, name, inbound, outbound), {"/etc/envoy/tls": str(folders[name])}
            )
            envoy = await stack.enter_async_context(running_envoy(config, folder / name))
            of[name] = Sidecar(envoy, inbound[name], outbound)
        blog.settings["SAGABOX_PUBLIC_URL_ORCHESTRATOR"] = blog.url("orchestrator")
        await asyncio.gather(*(_start(blog, name, scheme, of[name].outbound) for name in SERVICES))
        for name in SERVICES:
            for peer in SERVICES:
                await of[name].envoy.until_well(peer, "127.0.0.1")
        yield Sidecars(of, authority, folders)


async def _start(blog: RunningBlog, name: str, scheme: str, outbound: int) -> None:
    peers = ",".join(f"{it}={scheme}://127.0.0.1:{outbound}" for it in SERVICES if it != name)
    await blog.start(name, extra={"SAGABOX_PEERS": peers})


def _config(blog: RunningBlog, name: str, inbound: Mapping[str, int], outbound: int) -> Config:
    def port_of(url: str) -> int:
        return int(url.rpartition(":")[2])

    sockets: dict[Socket, Socket] = {
        ("127.0.0.1", 15000): ("127.0.0.1", free_port()),
        ("127.0.0.1", 15001): ("127.0.0.1", outbound),
        ("0.0.0.0", 15006): ("127.0.0.1", inbound[name]),
        ("127.0.0.1", 8001): ("127.0.0.1", port_of(blog.url(name))),
        ("127.0.0.1", 8101): ("127.0.0.1", port_of(blog.way_to(name))),
    }
    sockets |= {(peer, 15006): ("127.0.0.1", inbound[peer]) for peer in SERVICES}
    return rendering.placed(rendering.read("sidecar.yaml"), sockets)
