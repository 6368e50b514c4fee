"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest

from tests.support.databases.databases import Schema
from tests.support.orchestrator.engines import orchestrator_tables


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_tables
