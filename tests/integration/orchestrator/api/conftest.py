"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orchestrator.sagas.delete_article import delete_article
from tests.support.blog.blog import Running, articles_schema, comments_schema, running
from tests.support.blog.whole_blog import WholeBlog, whole_blog
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import DatabaseFactory
from tests.support.orchestrator.orchestrating import noted_app, orchestrator_schema


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_schema


@pytest.fixture
async def orchestrator(database: Database) -> AsyncIterator[Running]:
    async with running(noted_app(database)) as service:
        yield service


@pytest.fixture
async def blog(database_factory: DatabaseFactory) -> AsyncIterator[WholeBlog]:
    """The three services in one process."""
    databases = {
        "articles": database_factory(articles_schema),
        "comments": database_factory(comments_schema),
        "orchestrator": database_factory(orchestrator_schema),
    }
    async with whole_blog(databases, [delete_article]) as blog:
        yield blog
