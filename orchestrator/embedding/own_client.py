"""The client of an orchestrator within the same process.

Its callers share a process, and maybe a file of SQLite, with the orchestrator. Where one of them
would wait for itself, it is told so at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.client.asynchronous import Client
from orchestrator.client.requests import Request
from orchestrator.embedding.part import Part
from orchestrator.errors import Unavailable, WaitsForItself
from outbox import sqlite, tracing
from outbox.adding import own_starts

_HERE = "http://127.0.0.1"
_NEXT_STEP = (
    "start it by service.start(session, ...), whose run begins with the commit of the session, and "
    "wait for its end after that, or hear of it by the event SagaEnded"
)


class OwnClient(Client):
    """Asks the orchestrator `part`, whose tables `engine` has, without a connection, showing
    `secret`."""

    def __init__(self, part: Part, secret: str, engine: AsyncEngine) -> None:
        super().__init__(_HERE, token=secret, transport=httpx.ASGITransport(part))
        self._part = part
        self._engine = engine

    async def _ask(self, request: Request) -> Any:
        if not self._part.runs_here:
            # In another loop its answers would not be heard, and what it did would be in doubt.
            raise Unavailable(
                "the orchestrator does not run in this event loop: its application has not "
                "started, or has ended, or has another loop"
            )
        if request.method != "GET":
            self._require_no_write("the orchestrator could not write before that ends")
        # A run that is started within a request or a handler belongs to its trace.
        headers = {**request.headers, **tracing.headers()}
        return await super()._ask(replace(request, headers=headers))

    def _before_waiting(self, run: str) -> None:
        if own_starts.is_uncommitted(run):
            raise WaitsForItself(
                f"the run {run} is asked for by a transaction that has not committed, so that it "
                "cannot begin while this code waits within that transaction",
                next_step="wait for its end after the commit, or hear of it by the event SagaEnded",
            )
        self._require_no_write(f"the run {run} could not go on before that ends")

    def _require_no_write(self, why: str) -> None:
        if sqlite.is_within_write(self._engine):
            raise WaitsForItself(
                f"this code is within a transaction that writes to {self._engine.url.database}, "
                f"and {why}",
                next_step=_NEXT_STEP,
            )
