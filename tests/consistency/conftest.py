"""What the scenarios of real processes share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.databases import binaries
from tests.support.databases.databases import PostgresTemplates
from tests.support.databases.postgres import PostgresServer
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop and kill."""
    made = PostgresServer(binaries.from_wheel())
    yield made
    made.close()


@pytest.fixture
async def blog_on_own_server(
    own_server: PostgresServer, tmp_path: Path
) -> AsyncIterator[RunningBlog]:
    """The blog with its databases on that server; nothing runs yet."""
    async with running_blog(PostgresTemplates(own_server).fresh, tmp_path) as running:
        yield running


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        yield running
