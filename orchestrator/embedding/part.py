"""The part of an application that is an orchestrator: made anew at each start of the application,
as an engine that has ended does not begin again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from outbox.chassis.configured import ConfiguredService
from outbox.chassis.service import Chassis
from outbox.inbox.inbox import Inbox


class Part:
    """An ASGI application that is what `make` made last; and its service, as its neighbours know
    it."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        self._make = make
        self._app = make()
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def service(self) -> ConfiguredService:
        """Its service of now."""
        chassis: Chassis = self._app.state.chassis
        return chassis.service

    @property
    def name(self) -> str:
        """As of `Neighbour`."""
        return self.service.name

    @property
    def inbox(self) -> Inbox:
        """As of `Neighbour`."""
        return self.service.inbox

    @property
    def runs_here(self) -> bool:
        """As of `Neighbour`."""
        return self.service.runs_here

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The orchestrator, from its start to its end."""
        if self._has_begun:
            self._app = self._make()
        self._has_begun = True
        async with self._app.router.lifespan_context(self._app):
            yield
