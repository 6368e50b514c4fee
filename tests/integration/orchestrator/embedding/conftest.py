"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Schema
from tests.support.orchestrator.embedded import Bank, bank, bank_schema


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment, but what a test puts there."""
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)
    monkeypatch.setenv("SAGABOX_POLL_INTERVAL", "0.2")


@pytest.fixture
def database_schema() -> Schema:
    return bank_schema


@pytest.fixture
def one(engine: AsyncEngine) -> Bank:
    """A bank and its orchestrator in one database, ready to be run."""
    return bank(engine)
