"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Database
from tests.support.fixtures import MakeEngine


@pytest.fixture
def async_engine(make_engine: MakeEngine, database: Database) -> AsyncEngine:
    return make_engine(database, pool_size=40)
