"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Schema
from tests.support.fixtures import DatabaseFactory, MakeEngine
from tests.support.orchestrator.embedded import Bank, bank
from tests.support.orchestrator.orchestrating import orchestrator_schema
from tests.support.outbox.inboxes import ledger_schema


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment, but what a test puts there."""
    monkeypatch.delenv("SAGABOX_SECRETS", raising=False)
    monkeypatch.setenv("SAGABOX_POLL_INTERVAL", "0.2")


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def orchestrating(database_factory: DatabaseFactory, make_engine: MakeEngine) -> AsyncEngine:
    """The engine for the orchestrator's tables."""
    return make_engine(database_factory(orchestrator_schema))


@pytest.fixture
def one(engine: AsyncEngine, orchestrating: AsyncEngine) -> Bank:
    """A bank and its orchestrator, ready to be run."""
    return bank(engine, orchestrating)
