"""Restate: its server and a service of it, both at loopback, asked through the server's ingress."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import orjson

from benchmarks.blog.services import Services, close_all
from benchmarks.contenders import program
from benchmarks.contenders.installed import ENVIRONMENTS, restate_server
from benchmarks.http_client import Connection
from benchmarks.measuring import Load, closed_loop
from tests.support.processes.guardian import guardian
from tests.support.processes.waiting import free_port, until

_JSON = {"content-type": "application/json"}
_READY_WITHIN = 60.0


@dataclass(frozen=True)
class _Ports:
    ingress: int
    admin: int
    nodes: int
    service: int


class Restate:
    """Made by `running`."""

    def __init__(self, ingress: str, processes: Mapping[str, int]) -> None:
        self._ingress = ingress
        self.processes = processes

    async def delete(self, articles: Sequence[str], clients: int) -> Load:
        """One request for each, which is answered when the four steps are done."""
        connections = [await Connection.open(self._ingress) for _ in range(clients)]
        load = await closed_loop(articles, [_Client(it) for it in connections])
        await close_all(connections)
        return load


class _Client:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __call__(self, article: str) -> None:
        body = orjson.dumps(article)
        answer = await self._connection.request("POST", "/deletion/delete", _JSON, body)
        if answer.status >= 300:
            raise RuntimeError(f"Restate answered {answer.status} for {article}: {answer.body!r}")


@asynccontextmanager
async def running(services: Services, folder: Path, clients: int) -> AsyncIterator[Restate]:
    """Restate with the deletion registered, for that many clients at most. Raises Missing."""
    ports = _Ports(*(free_port() for _ in range(4)))
    settings = {
        "addresses": {name: services.url(name) for name in ("articles", "comments")},
        "secret": services.secret,
        "clients": clients,
        "port": ports.service,
    }
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_server(ports, folder))
        service = await stack.enter_async_context(
            program.running(
                "restate_deletion", settings, folder / "restate.log", ENVIRONMENTS["restate"]
            )
        )
        await until(lambda: _register(ports), _READY_WITHIN, what="Restate knows the service")
        processes = {"restate-server": server, "restate service": service.pid}
        yield Restate(f"http://127.0.0.1:{ports.ingress}", processes)


async def _register(ports: _Ports) -> bool:
    body = orjson.dumps({"uri": f"http://127.0.0.1:{ports.service}"})
    try:
        connection = await Connection.open(f"http://127.0.0.1:{ports.admin}")
        answer = await connection.request("POST", "/deployments", _JSON, body)
        await connection.close()
    except (OSError, EOFError):
        return False
    return answer.status in (200, 201)


@asynccontextmanager
async def _server(ports: _Ports, folder: Path) -> AsyncIterator[int]:
    """The process id of the server."""
    server = restate_server()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "RESTATE_BASE_DIR": str(folder / "restate-data"),
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_ADVERTISED_HOST": "127.0.0.1",
        "RESTATE_BIND_PORT": str(ports.nodes),
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports.ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports.admin}",
        "RESTATE_LOG_FILTER": "warn",
        # It is to talk to this machine alone.
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    with (folder / "restate-server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(server), "--no-logo"),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    guardian().entrust_process(process.pid)
    try:
        yield process.pid
    finally:
        # There is nothing to keep, and its own way down takes long.
        process.kill()
        await process.wait()
        guardian().release_process(process.pid)
