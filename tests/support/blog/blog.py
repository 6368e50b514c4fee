"""The two services of the blog, in the test's own process: asked over HTTP, or by messages."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Connection, select
from sqlalchemy.pool import QueuePool

import articles.app
import articles.model
import comments.app
import comments.model
from articles.settings import ArticlesSettings
from comments.settings import CommentsSettings
from outbox import schema, tables
from outbox.chassis.service import Chassis
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.messages import Message, type_of
from outbox.replies import Reply
from outbox.testing import FakeClock
from outbox.transports.base import Transport
from outbox.wire.codec import decode, encode
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database

SECRETS = "test:" + base64.b64encode(b"a secret for tests, not for use!").decode()
ORCHESTRATOR = "http://127.0.0.1:8000"
START = datetime(2030, 1, 1, 12, tzinfo=UTC)
DELIVERY_SECONDS = 20
"""The inbox answers within them; its usual seconds are few where a machine has much else to do."""

new_id = Ids(SystemClock(), os.urandom)
"""Ids of sagas, commands and articles."""


def articles_schema(connection: Connection) -> None:
    """The tables of articles, as its migrations leave them."""
    tables.metadata.create_all(connection)
    articles.model.metadata.create_all(connection)
    schema.record_revision(connection, articles.model.SCHEMA_REVISION, "expand", START)


def comments_schema(connection: Connection) -> None:
    """The tables of comments, as its migrations leave them."""
    tables.metadata.create_all(connection)
    comments.model.metadata.create_all(connection)
    schema.record_revision(connection, comments.model.SCHEMA_REVISION, "expand", START)


def articles_app(
    database: Database, transports: Mapping[str, Transport] | None = None, **settings: Any
) -> FastAPI:
    """The articles service on this database, its clock at START and standing. It trusts this
    machine, and takes the time that a busy one needs, unless told otherwise."""
    return articles.app.create_app(
        ArticlesSettings(
            **{
                "database_url": database.url,
                "secrets": SECRETS,
                "url_orchestrator": ORCHESTRATOR,
                "trust_loopback": True,
                "delivery_timeout": DELIVERY_SECONDS,
                **settings,
            }
        ),
        clock=FakeClock(START),
        transports={} if transports is None else transports,
    )


def comments_app(database: Database, **settings: Any) -> FastAPI:
    """The comments service on this database, as `articles_app`."""
    return comments.app.create_app(
        CommentsSettings(
            **{
                "database_url": database.url,
                "secrets": SECRETS,
                "trust_loopback": True,
                "delivery_timeout": DELIVERY_SECONDS,
                **settings,
            }
        ),
        clock=FakeClock(START),
        transports={},
    )


@dataclass(frozen=True)
class Running:
    """One service of the blog."""

    app: FastAPI
    http: httpx.AsyncClient

    @property
    def chassis(self) -> Chassis:
        """What is behind its addresses."""
        chassis: Chassis = self.app.state.chassis
        return chassis

    async def tell(
        self, message: Message, *, saga: str | None = None, undoes: Sequence[str] = ()
    ) -> Reply:
        """Send one message, under an id of its own, and return the answer."""
        (reply,) = await self.chassis.service.inbox.receive(
            [envelope(message, saga=saga, undoes=undoes)]
        )
        return reply

    async def tell_all(self, *envelopes: Envelope) -> list[Reply]:
        """Send a batch."""
        return await self.chassis.service.inbox.receive(envelopes)

    async def outbox(self, cls: type[Message]) -> list[Any]:
        """The unsent messages of this class, oldest first."""
        query = (
            select(tables.outbox.c.payload)
            .where(tables.outbox.c.type == str(type_of(cls)))
            .order_by(tables.outbox.c.seq)
        )
        async with self.chassis.database.reading.connect() as connection:
            return [decode(cls, row.encode()) for row in await connection.scalars(query)]


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[Running]:
    """The service without its background work; afterwards no connection of it is still in use."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        service = Running(app, client)
        engine = service.chassis.database.engine
        try:
            yield service
            pool = engine.pool
            assert isinstance(pool, QueuePool)
            assert pool.checkedout() == 0, "a connection was not given back"
        finally:
            await engine.dispose()


def envelope(
    message: Message, *, saga: str | None = None, undoes: Sequence[str] = (), id: str | None = None
) -> Envelope:
    """The message, as its sender puts it on the wire."""
    return Envelope(
        id=id or new_id(),
        source="tests",
        type=str(type_of(message)),
        key=message.message_key,
        time=START,
        data=encode(message),
        correlation=saga,
        undoes=tuple(undoes),
    )
