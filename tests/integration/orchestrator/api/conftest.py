"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.blog.blog import Running, running
from tests.support.databases.databases import Database, Schema
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


@pytest.fixture
async def orchestrator(database: Database) -> AsyncIterator[Running]:
    async with running(noted_app(database)) as service:
        yield service
