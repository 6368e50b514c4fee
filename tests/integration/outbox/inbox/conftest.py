"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.inboxes import Bench, Names, ledger_schema


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
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)
