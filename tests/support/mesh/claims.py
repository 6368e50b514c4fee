"""A receiver behind the edge of `deploy/envoy`, which a test lets do what a mesh may be told to do
to messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbox.transports.http import HttpTransport
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring
from tests.support.http.servers import serving
from tests.support.mesh import rendering
from tests.support.mesh.envoy import Envoy, running_envoy
from tests.support.mesh.rendering import Config, Socket
from tests.support.outbox.inboxes import Bench
from tests.support.outbox.receiving import KEYS
from tests.support.processes.waiting import free_port

Change = Callable[[Config], Config]


@dataclass
class Way:
    """The last piece of the way to the receiver: what came by it, and what becomes of the next
    answers. An answer that is lost, or held up by the gate, was given: the batch has taken
    effect."""

    app: ASGIApp
    came: list[dict[str, str]] = field(default_factory=list)
    lost: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/messages":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.came.append(headers)
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self.app(scope, receive, hold)
        await self.gate.wait()
        if self.lost:
            self.lost -= 1
            held = [
                {"type": "http.response.start", "status": 500, "headers": []},
                {"type": "http.response.body"},
            ]
        for message in held:
            await send(message)


@dataclass
class Behind:
    """The sender's side: `to_bank` delivers by way of Envoy."""

    envoy: Envoy
    way: Way
    to_bank: HttpTransport


@asynccontextmanager
async def bank_at(bench: Bench, keys: Keyring = KEYS) -> AsyncIterator[tuple[str, Way]]:
    """The receiver of that bench as a service, ready for health checks."""
    app = FastAPI()
    app.include_router(receiver(bench.inbox, keys=keys, clock=bench.clock, concurrency=32))
    app.add_api_route("/readyz", lambda: Response("ready"))
    way = Way(app)
    async with serving(way) as address:
        yield address, way


@asynccontextmanager
async def behind(
    bench: Bench, folder: Path, change: Change, *, below: str = ""
) -> AsyncIterator[Behind]:
    """The bank stands where `edge.yaml` has comments, with what `change` makes of the file. The
    sender has its address with the path `below`."""
    messages = free_port()
    async with bank_at(bench) as (address, way):
        config = change(edge_to(address, messages))
        async with running_envoy(config, folder) as envoy:
            await envoy.until_well("bank", "127.0.0.1")
            to_bank = HttpTransport(
                f"http://127.0.0.1:{messages}{below}",
                source="sender",
                to="bank",
                keys=KEYS,
                clock=bench.clock,
                timeout=20,  # what Envoy answers comes before that
            )
            try:
                yield Behind(envoy, way, to_bank)
            finally:
                await to_bank.aclose()


def edge_to(address: str, messages: int) -> Config:
    """`edge.yaml` with the bank, at that address, where comments stands; the others are away."""
    host, port = httpx.URL(address).host, httpx.URL(address).port
    assert port is not None
    sockets: dict[Socket, Socket] = {
        ("127.0.0.1", 9901): ("127.0.0.1", free_port()),
        ("0.0.0.0", 8080): ("127.0.0.1", free_port()),
        ("0.0.0.0", 8081): ("127.0.0.1", messages),
        ("comments", 8002): (host, port),
    }
    for name, of in (("orchestrator", 8000), ("articles", 8001)):
        sockets[name, of] = ("127.0.0.1", free_port())
    for name, of in (("orchestrator", 8100), ("articles", 8101), ("comments", 8102)):
        sockets[name, of] = ("127.0.0.1", free_port())
    config = rendering.told_at_once(rendering.placed(rendering.read("edge.yaml"), sockets))
    return renamed(config, "comments", "bank")


def renamed(config: Config, old: str, new: str) -> Config:
    """The service of that name has another one."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: told(it) for key, it in value.items()}
        if isinstance(value, list):
            return [told(it) for it in value]
        return new if value == old else value

    changed: Config = told(config)
    return changed
