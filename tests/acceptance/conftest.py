"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fixtures import DatabaseFactory
from tests.support.processes.running import RunningBlog, running_blog


@pytest.fixture
async def blog(database_factory: DatabaseFactory, tmp_path: Path) -> AsyncIterator[RunningBlog]:
    async with running_blog(database_factory, tmp_path) as running:
        yield running
