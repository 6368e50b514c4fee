"""A request to an ASGI application of this process, and its answer as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

AHEAD = 16
"""Parts of an answer that the application may be ahead of who reads it."""


@dataclass(frozen=True)
class Answer:
    """The answer: names of headers in lower case, and the body in pieces. Reading them raises
    ConnectionError where the application breaks off before the end."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]

    async def whole(self) -> bytes:
        """All of the body."""
        return b"".join([piece async for piece in self.pieces])


@asynccontextmanager
async def asked(app: ASGIApp, scope: Scope, body: bytes) -> AsyncIterator[Answer]:
    """The answer of the application. It learns at the end of the block that the caller is gone, if
    it still answers then. Raises what the application raises before it answers."""
    told: asyncio.Queue[Message | None] = asyncio.Queue()
    ahead = asyncio.Semaphore(AHEAD)
    over, requests = asyncio.Event(), [body]

    async def receive() -> Message:
        if requests:
            return {"type": "http.request", "body": requests.pop(), "more_body": False}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await ahead.acquire()
        told.put_nowait(message)

    async def run() -> None:
        try:
            await app(scope, receive, send)
        finally:
            told.put_nowait(None)

    async def pieces() -> AsyncIterator[bytes]:
        while (message := await told.get()) is not None:
            ahead.release()
            if piece := message.get("body"):
                yield piece
            if not message.get("more_body"):
                return
        raise ConnectionError("the application broke off its answer")

    work = asyncio.create_task(run())
    try:
        begun = await told.get()
        if begun is None:
            await work
            raise RuntimeError("the application gave no answer")
        ahead.release()
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in begun["headers"]
        }
        yield Answer(begun["status"], headers, pieces())
    finally:
        over.set()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
