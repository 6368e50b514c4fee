"""What the tests of this folder ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from outbox.clock import Clock
from outbox.testing import FakeClock
from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import START, Histories
from tests.support.fixtures import MakeSyncEngine


@pytest.fixture
def database_schema() -> Schema | str:
    return "empty"


@pytest.fixture
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


@pytest.fixture
def histories(tmp_path: Path) -> Histories:
    return Histories(tmp_path / "articles")


@pytest.fixture
def clock() -> Clock:
    return FakeClock(START)
