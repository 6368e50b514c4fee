"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import Bench, Names, ledger_schema
from tests.support.outbox.receiving import Client


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def bench(engine: AsyncEngine) -> Bench:
    return Bench(engine)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)
