"""The four commands of a deletion, each a signed request by httpx to the service that has it.

It needs httpx, and of this project only what needs nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import httpx

from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.transports.http.signing import Keyring, sign

BATCH = "application/cloudevents-batch+json"
STEPS = (
    ("articles", "articles.hide-article.v1"),
    ("comments", "comments.close-thread.v1"),
    ("articles", "articles.delete-article.v1"),
    ("comments", "comments.purge-thread.v1"),
)
_AGAIN = {"locked", "ongoing", "too-busy", "not-attempted", "failed"}
_TRIES = 500
_PAUSE = 0.02

_CLOCK = SystemClock()
new_id = Ids(_CLOCK, os.urandom)


class Participants:
    """Both services, behind one client that is kept: with room for `clients` at once."""

    def __init__(self, addresses: dict[str, str], secret: str, clients: int) -> None:
        self._addresses = addresses
        self._keys = Keyring.from_text(secret)
        limits = httpx.Limits(
            max_connections=2 * clients,
            max_keepalive_connections=2 * clients,
            keepalive_expiry=4,  # the services close theirs after 5 s
        )
        self._client = httpx.AsyncClient(timeout=60, trust_env=False, limits=limits)

    async def call(self, service: str, kind: str, article: str, saga: str) -> Any:
        """Let the service do it for that saga; the value of its reply. A request that it had no
        room for is made again. Raises RuntimeError where it was not done."""
        event = {
            "specversion": "1.0",
            "id": new_id(),
            "source": "bench",
            "type": kind,
            "time": _CLOCK.now().isoformat().replace("+00:00", "Z"),
            "partitionkey": article,
            "correlationid": saga,
            "datacontenttype": "application/json",
            "data": {"article_id": article},
        }
        body = json.dumps([event]).encode()
        said = ""
        for _ in range(_TRIES):
            try:
                answer = await self._post(service, body)
            except httpx.TransportError as error:
                said = repr(error)
                continue  # the service had closed the connection, as it rested
            said = answer.text
            if answer.status_code == 200:
                reply = answer.json()[0]["data"]
                if reply["outcome"] == "done":
                    return reply.get("value")
                if reply["outcome"] not in _AGAIN:
                    break
            elif answer.status_code not in (429, 503):
                break
            await asyncio.sleep(_PAUSE)  # the service has no room just now
        raise RuntimeError(f"{kind} of {article} was not done: {said}")

    async def _post(self, service: str, body: bytes) -> httpx.Response:
        headers = {"content-type": BATCH, "accept": BATCH}
        headers |= sign(
            self._keys,
            method="POST",
            target="/messages",
            headers=headers,
            body=body,
            now=_CLOCK.now(),
        )
        address = self._addresses[service]
        return await self._client.post(f"{address}/messages", headers=headers, content=body)
