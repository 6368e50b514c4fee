"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.blog.blog import Running, articles_app, articles_schema, running
from tests.support.databases.databases import Database, Schema


@pytest.fixture
def database_schema() -> Schema:
    return articles_schema


@pytest.fixture
async def articles(database: Database) -> AsyncIterator[Running]:
    async with running(articles_app(database)) as service:
        yield service
