"""Two ways to delete an article with its comments: as a saga, and as people write it without.

Both run the same commands in the same service processes.
"""

from __future__ import annotations

import asyncio
import os
import time

import orjson

from articles.contract import DeleteArticle, HideArticle
from benchmarks.http_client import Connection
from comments.contract import CloseThread, PurgeThread
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.messages import Message
from outbox.replies import Outcome, Reply
from outbox.transports.base import Accepted, Answered, Unacceptable, Unreachable
from outbox.transports.http.signing import Keyring, sign
from outbox.transports.http.transport import read_answer
from outbox.wire.codec import encode
from outbox.wire.envelope import BATCH, Envelope, to_batch

STEPS = 4
_TRIES = 500
_PAUSE = 0.02

_CLOCK = SystemClock()
_IDS = Ids(_CLOCK, os.urandom)


class BySaga:
    """One client of the orchestrator: one request, which is answered when the saga has ended."""

    def __init__(self, orchestrator: Connection) -> None:
        self._orchestrator = orchestrator

    async def __call__(self, article: str) -> None:
        """Delete it. Raises RuntimeError where the saga did not end COMPLETED."""
        answer = await self._orchestrator.request(
            "POST",
            "/sagas/delete-article",
            {"content-type": "application/json", "prefer": "wait=30"},
            orjson.dumps({"article_id": article}),
        )
        status = orjson.loads(answer.body).get("status")
        if answer.status != 200 or status != "COMPLETED":
            raise RuntimeError(f"the saga of {article} did not complete: {answer.body!r}")


class ByCalls:
    """One client without sagas: four calls, one after the other. Nothing is undone, nothing is
    remembered; a call that the service had no room for is made again.

    `calls` has the seconds of each call.
    """

    def __init__(self, articles: Connection, comments: Connection, keys: Keyring) -> None:
        self._articles = articles
        self._comments = comments
        self._keys = keys
        self.calls: list[float] = []

    async def __call__(self, article: str) -> None:
        """Delete it. Raises RuntimeError where a step was not done."""
        saga = _IDS()
        for connection, command in (
            (self._articles, HideArticle(article)),
            (self._comments, CloseThread(article)),
            (self._articles, DeleteArticle(article)),
            (self._comments, PurgeThread(article)),
        ):
            envelope = _envelope(command, saga)
            for _ in range(_TRIES):
                began = time.perf_counter()
                reply = await self._call(connection, envelope)
                self.calls.append(time.perf_counter() - began)
                if reply is not None and reply.outcome.is_final:
                    break
                await asyncio.sleep(_PAUSE)  # the service has no room just now
            if reply is None or reply.outcome is not Outcome.DONE:
                raise RuntimeError(f"{envelope.type} of {article} was not done: {reply}")

    async def _call(self, connection: Connection, envelope: Envelope) -> Reply | None:
        """The reply; None where the service had no room for the request."""
        body, now = to_batch([envelope]), _CLOCK.now()
        headers = {"content-type": BATCH, "accept": BATCH}
        headers |= sign(
            self._keys, method="POST", target="/messages", headers=headers, body=body, now=now
        )
        answer = await connection.request("POST", "/messages", headers, body)
        match read_answer(answer, [envelope.id], now):
            case Answered(replies):
                reply: Reply = replies[0]
                return reply
            case Unreachable():
                return None
            case Accepted():
                raise RuntimeError(f"{envelope.type} was only accepted, and an answer is wanted")
            case Unacceptable(reason):
                raise RuntimeError(f"{envelope.type} was not accepted: {reason}")


def _envelope(command: Message, saga: str) -> Envelope:
    return Envelope(
        id=_IDS(),
        source="bench",
        type=str(command.message_type),
        key=command.message_key,
        time=_CLOCK.now(),
        data=encode(command),
        correlation=saga,
    )


def new_id() -> str:
    """A new id."""
    return _IDS()
