"""An agent that speaks the part of Consul's HTTP API that is used: health with blocking queries,
and the registration of services with a check over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.http.servers import serving


@dataclass
class Agent:
    """The agent: `services` has the definitions by id, `critical` the ids whose checks fail.

    `token` is what callers have to show, `broken` the whole answer in place of what is right.
    """

    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    critical: set[str] = field(default_factory=set)
    index: int = 10
    token: str | None = None
    broken: Response | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def place(self) -> str:
        """Its host and port."""
        return urlsplit(self.address).netloc

    def change(self, *, to_index: int | None = None) -> None:
        """Tell those that wait that something changed."""
        self.index = self.index + 1 if to_index is None else to_index
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def add(self, name: str, address: str, weight: int = 1) -> str:
        """A healthy instance of that service; its id."""
        host, port = urlsplit(address).hostname, urlsplit(address).port
        id_ = f"{name}-{host}-{port}"
        self.services[id_] = {
            "ID": id_,
            "Name": name,
            "Address": host,
            "Port": port,
            "Weights": {"Passing": weight, "Warning": 1},
        }
        self.change()
        return id_

    def remove(self, id_: str) -> None:
        """It is there no more."""
        del self.services[id_]
        self.change()

    async def check(self) -> None:
        """Ask each service that has a check how it is, as an agent does from time to time."""
        async with httpx.AsyncClient(trust_env=False) as client:
            for id_, definition in self.services.items():
                if "Check" in definition:
                    try:
                        answer = await client.get(definition["Check"]["HTTP"], timeout=3)
                        is_well = answer.is_success
                    except httpx.HTTPError:
                        is_well = False
                    (self.critical.discard if is_well else self.critical.add)(id_)
        self.change()

    async def health(self, request: Request) -> Response:
        """GET /v1/health/service/NAME"""
        self.asked.append(dict(request.query_params))
        if (refusal := self._refusal(request)) is not None:
            return refusal
        index, wait = request.query_params.get("index"), request.query_params.get("wait", "0s")
        if index is not None and int(index) == self.index:
            try:
                async with asyncio.timeout(float(wait.removesuffix("s"))):
                    await self._changed.wait()
            except TimeoutError:
                pass
        name, tag = request.path_params["name"], request.query_params.get("tag")
        found = [
            {"Node": {"Address": "127.0.0.1"}, "Service": it}
            for id_, it in self.services.items()
            if it["Name"] == name and id_ not in self.critical
            if tag is None or tag in it.get("Tags", ())
        ]
        return JSONResponse(found, headers={"x-consul-index": str(self.index)})

    async def register(self, request: Request) -> Response:
        """PUT /v1/agent/service/register"""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        definition = await request.json()
        self.services[definition["ID"]] = definition
        self.critical.add(definition["ID"])  # until its check passes
        self.change()
        return Response()

    async def deregister(self, request: Request) -> Response:
        """PUT /v1/agent/service/deregister/ID"""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self.remove(request.path_params["id"])
        return Response()

    def _refusal(self, request: Request) -> Response | None:
        if self.token is not None and request.headers.get("x-consul-token") != self.token:
            return Response("Permission denied", 403)
        return self.broken


@asynccontextmanager
async def agent(at: int = 0) -> AsyncIterator[Agent]:
    """An agent at that port of loopback, or at any free one."""
    told = Agent()
    routes = [
        Route("/v1/health/service/{name}", told.health),
        Route("/v1/agent/service/register", told.register, methods=["PUT"]),
        Route("/v1/agent/service/deregister/{id}", told.deregister, methods=["PUT"]),
    ]
    async with serving(Starlette(routes=routes), at=at) as told.address:
        yield told
        told.change()  # those that wait get their answer
