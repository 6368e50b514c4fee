"""A sender whose credentials a broker refuses: its log says that, and keeps the secret."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.relay.settings import RelaySettings
from outbox.tables import outbox as outbox_table
from tests.support.brokers.nats_server import a_nats_server
from tests.support.brokers.rabbitmq_server import shared_rabbit
from tests.support.brokers.redis_server import a_redis
from tests.support.databases.databases import Schema
from tests.support.outbox.couriers import ENDURING
from tests.support.outbox.inboxes import Book, ledger_schema
from tests.support.outbox.services import make_service
from tests.support.processes.waiting import until

ACCESS = "shop:not-it"


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture(params=["nats", "rabbitmq", "redis"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """One with the wrong password."""
    match request.param:
        case "nats":
            with a_nats_server("authorization { user: shop, password: other }") as nats:
                yield nats.url(access=ACCESS)
        case "rabbitmq":
            yield shared_rabbit().url(user=ACCESS)
        case _:
            async with a_redis() as redis:
                yield redis.url(ACCESS)


@pytest.mark.databases("sqlite")
async def test_the_log_says_that_the_broker_refuses_the_credentials_and_the_message_stays(
    engine: AsyncEngine, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service = make_service(engine, "shop", peers={"bank": address}, relay=RelaySettings(**ENDURING))
    app = FastAPI()
    service.attach(app)
    async with service.running():
        async with service.sessions.begin() as session:
            outbox.add(session, Book("a"))
        await until(lambda: "refuses the credentials" in caplog.text, what="it is said")
    assert "bank takes nothing: " in caplog.text
    assert "no answer" not in caplog.text
    assert "not-it" not in caplog.text
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(outbox_table)) == 1
