"""A REST step of an orchestrator within the application of a service, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

import orchestrator
from orchestrator import Saga, pivot, rest
from orchestrator.embedding.attach import TABLES
from outbox.messages import SagaRef
from tests.integration.orchestrator.rest_calls.conftest import Charged, Order
from tests.support.databases.databases import Schema
from tests.support.orchestrator.orchestrating import orchestrator_schema

pay = Saga(
    name="pay",
    version=1,
    state=Order,
    key=lambda it: it.order,
    steps=[
        pivot(
            "charge",
            lambda it: rest(
                "payments",
                "POST /charges/{order}?note={note}",
                values={"order": it.order, "note": "a&b=c"},
                body={"cents": it.cents},
                reply=Charged,
                keyed=True,
            ),
            on_reply=Order.charged,
        )
    ],
)


PAY = SagaRef[Order]("pay")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment."""
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)


@pytest.fixture
def database_schema() -> Schema:
    def schema(connection: Connection) -> None:
        orchestrator_schema(connection, TABLES)

    return schema


@asynccontextmanager
async def listening(requests: list[str]) -> AsyncIterator[str]:
    """The address of a server that answers each request with a charge."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(head)
        body = b'{"id": "ch_1"}'
        writer.write(b"HTTP/1.1 201 Created\r\nSet-Cookie: a=b\r\nConnection: close\r\n")
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"rest+http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_an_embedded_orchestrator_calls_a_plain_http_service(engine: AsyncEngine) -> None:
    app, requests = FastAPI(), list[str]()
    async with listening(requests) as address:
        embedded = orchestrator.attach(app, engine, sagas=[pay], peers={"payments": address})
        async with app.router.lifespan_context(app):
            begun = await embedded.client.start(PAY, Order("a/b", 5))
            run = await begun.wait(30)
    assert run.status == "COMPLETED"
    assert run.state["charge"] == "ch_1"
    (head,) = requests
    assert head.startswith("POST /v1/charges/a%2Fb?note=a%26b%3Dc HTTP/1.1\r\n")
    assert "idempotency-key: " in head.lower()
