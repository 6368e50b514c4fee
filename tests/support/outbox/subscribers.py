"""Subscribers of webhooks: their secret, what they check, and a server that keeps what came."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from outbox import Webhook
from outbox.retry import RetryPolicy
from tests.support.http.servers import Exchange, Scripted, scripted

KEY = b"a secret of twenty-four bytes and more"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
VARIABLE = "SUBSCRIBER_SECRET"


@contextmanager
def subscribed(url: str, **options: Any) -> Iterator[Webhook]:
    """A webhook to that address of this machine, whose secret is there within the block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = SECRET
    try:
        yield Webhook(url, secret=f"env:{VARIABLE}", private=True, **options)
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def is_signed(headers: Mapping[str, str], body: bytes, key: bytes = KEY) -> bool:
    """Whether one of the signatures is by that key, written anew from the standard."""
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in headers["webhook-signature"].split(" ")


QUICK = RetryPolicy(first=0.02, factor=1.0, ceiling=0.02, jitter=0.0, attempts=4)


@dataclass
class Subscriber:
    """A subscriber that answers each event with the status that `statuses` has for its key, one
    after the other; 204 when these are used up. A status may have headers: `(429, {...})`."""

    statuses: dict[str, list[Any]] = field(default_factory=dict)
    tried: list[tuple[str, str]] = field(default_factory=list)
    """Key and id of each event that came, in their order."""
    taken: list[tuple[str, str]] = field(default_factory=list)
    server: Scripted | None = None
    body: bytes = b""

    @property
    def url(self) -> str:
        """Its address."""
        assert self.server is not None, "it serves within its block alone"
        return f"{self.server.address}/hook"

    def ids(self, key: str) -> list[str]:
        """What it has taken of that key."""
        return [id_ for its, id_ in self.taken if its == key]

    async def script(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        assert is_signed(request.headers, request.body), "each request is signed"
        events = json.loads(request.body)
        batch = events if isinstance(events, list) else [events]
        came = [(it["partitionkey"], it["id"]) for it in batch]
        self.tried += came
        status: Any = 204
        for key, _ in came:
            if self.statuses.get(key):
                status = self.statuses[key].pop(0)
                break
        status, headers = status if isinstance(status, tuple) else (status, {})
        if 200 <= status < 300:
            self.taken += came
        await exchange.answer(status, self.body, **headers)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Subscriber]:
        """Serve on loopback until the block ends."""
        async with scripted(self.script) as self.server:
            yield self
