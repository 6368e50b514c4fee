"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.retention.archive.archive import Archive, archive_at
from tests.support.databases.databases import Database, Schema
from tests.support.databases.in_time import in_time
from tests.support.orchestrator.engines import orchestrator_tables
from tests.support.orchestrator.retained import Retained, retained


@pytest.fixture
def database_schema() -> Schema:
    return in_time(orchestrator_tables)


@pytest.fixture
async def plain(database: Database) -> AsyncIterator[Retained]:
    """A node without an archive."""
    async with retained(database) as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive in a folder."""
    made = archive_at(str(tmp_path / "archive"))
    assert made is not None
    return made


@pytest.fixture
async def kept(database: Database, archive: Archive) -> AsyncIterator[Retained]:
    """A node with that archive."""
    async with retained(database, archive) as made:
        yield made
