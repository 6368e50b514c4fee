"""Both ends of an HTTP transport: one that sends, and scripts for a server that answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from outbox.ids import derive
from outbox.replies import Outcome, Reply
from outbox.testing import FakeClock
from outbox.transports import Answered, HttpTransport
from outbox.transports.http.signing import Keyring
from outbox.wire.envelope import Envelope, from_batch, replies_to_batch
from tests.support.http.servers import Exchange, Request, Script, Scripted, scripted
from tests.support.outbox.envelopes import an_envelope
from tests.support.processes.waiting import BUSY

KEYS = Keyring({"now": b"k" * 32}, "now")
ONE = (an_envelope(),)
DONE = Answered([Reply(Outcome.DONE)])


def replies(request: Request, *, source: str = "comments") -> bytes:
    """The body that says that all of the request is done."""
    asked = from_batch(request.body)
    ids = iter([derive(each.id, "reply") for each in asked])
    done = [Reply(Outcome.DONE)] * len(asked)
    return replies_to_batch(source, asked, done, lambda: next(ids), asked[0].time)


async def do_all(exchange: Exchange) -> None:
    await exchange.answer(200, replies(exchange.request))


def answering(status: int, body: bytes = b"", **headers: str) -> Script:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(status, body, **headers)

    return answer


def writing(*parts: bytes) -> Script:
    """Writes these bytes and closes the connection."""

    async def write(exchange: Exchange) -> None:
        for part in parts:
            await exchange.write(part)
        exchange.close()

    return write


def to(address: str, **options: Any) -> HttpTransport:
    """A patient transport, unless the options say how long it waits."""
    arguments: dict[str, Any] = {"source": "articles", "keys": KEYS, "clock": FakeClock()}
    return HttpTransport(address, **(arguments | {"timeout": 10 * BUSY} | options))


@asynccontextmanager
async def connected(
    script: Script, **options: Any
) -> AsyncIterator[tuple[HttpTransport, Scripted]]:
    async with scripted(script) as server:
        transport = to(server.address, **options)
        try:
            yield transport, server
        finally:
            await transport.aclose()


async def delivery_to(script: Script, *envelopes: Envelope, **options: Any) -> Any:
    """What one delivery to such a server gives."""
    async with connected(script, **options) as (transport, _):
        return await transport.deliver(envelopes or ONE)
