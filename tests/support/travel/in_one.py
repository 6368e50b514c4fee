"""The handlers of `examples/travel` for a world of one process, which makes no calls to the outside
and hears no webhooks: each call is made within the transaction of its command."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from outbox.inbox.handlers import Context, Handlers
from outbox.inbox.outside.registration import Outside
from outbox.messages import Message
from outbox.testing.provider import provider


def in_process(path: Path) -> httpx.AsyncClient:
    """A provider in this process, with its state at that path."""
    transport = httpx.ASGITransport(provider(path))
    return httpx.AsyncClient(transport=transport, base_url="http://provider")


def forget(path: Path) -> None:
    """Let that provider forget what it did."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("keys", "voided", "asked", "charges", "refunds", "orders", "webhooks"):
            connection.execute(f"DELETE FROM {table}")


def in_one(handlers: Handlers, later: Mapping[type[Message], object]) -> Handlers:
    """The same, with calls in the transaction. `later` has what comes later after Pending."""
    made = Handlers(handlers.consumer)
    for name in handlers.types:
        known = handlers.find(name)
        assert known is not None, "its type is listed"
        cls: Any = known.message_class
        call = known.outside
        made.on(cls)(known.function if call is None else _whole(call, later.get(cls)))
    return made


def _whole(call: Outside, later: object) -> Any:
    async def handle(session: AsyncSession, command: Message, context: Context) -> Any:
        before = None if call.before is None else await call.before(session, command, context)
        if isinstance(before, outbox.Refused):
            return before
        reply = await call.function(command, replace(context, before=before))
        if isinstance(reply, outbox.Pending):
            reply = later
        if call.after is not None:
            await call.after(session, command, reply, context)
        return reply

    return handle
