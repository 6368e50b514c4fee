"""The client of the orchestrator within the same process."""

from __future__ import annotations

import httpx
from starlette.types import ASGIApp

from orchestrator.client.asynchronous import Client

_HERE = "http://127.0.0.1"


class OwnClient(Client):
    """A client that asks the orchestrator `part` without a connection, showing `secret`."""

    def __init__(self, part: ASGIApp, secret: str) -> None:
        super().__init__(_HERE, token=secret, transport=httpx.ASGITransport(part))
