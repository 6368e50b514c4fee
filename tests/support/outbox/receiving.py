"""A service that posts messages to a receiver, rightly or wrongly signed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from fastapi import FastAPI

from outbox.chassis.http import problems
from outbox.replies import Reply
from outbox.transports.http.receiver import receiver
from outbox.transports.http.signing import Keyring, sign
from outbox.wire.envelope import BATCH, Envelope, replies_from_batch, to_batch
from tests.support.outbox.inboxes import Bench

KEYS = Keyring({"now": os.urandom(32)}, "now")


class Client:
    """Signs as another service does, and lets a test do it wrongly."""

    def __init__(self, bench: Bench, **options: Any) -> None:
        self.app = FastAPI()
        self.app.include_router(receiver(bench.inbox, keys=KEYS, clock=bench.clock, **options))
        problems.install(self.app)
        transport = httpx.ASGITransport(self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://bank")
        self._clock = bench.clock

    async def post(
        self,
        body: bytes,
        content_type: str | None = BATCH,
        *,
        target: str = "/messages",
        headers: Mapping[str, str] | None = None,
        keys: Keyring = KEYS,
        **tampered: Any,
    ) -> httpx.Response:
        """POST the body, signed; `tampered` replaces parts of the request after that."""
        all_headers = dict(headers or {})
        if content_type is not None:
            all_headers["content-type"] = content_type
        signature = sign(
            keys,
            method="POST",
            target=target,
            headers=all_headers,
            body=body,
            now=self._clock.now(),
        )
        request = {
            "url": target,
            "content": body,
            "headers": {**all_headers, **signature, **tampered.pop("later", {})},
            **tampered,
        }
        return await self.http.post(**request)

    async def send(self, *envelopes: Envelope, **rest: Any) -> Sequence[Reply]:
        """The replies to a batch."""
        answer = await self.post(to_batch(envelopes), **rest)
        assert answer.status_code == 200, answer.text
        return replies_from_batch(answer.content, [each.id for each in envelopes])


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem's fields; every one of them is there, and says something."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "next_step", "code"}
    assert all(problem.values())
    return problem
