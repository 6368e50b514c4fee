"""What the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases.databases import Schema
from tests.support.orchestrator.engines import Node, Scripted, orchestrator_tables, running
from tests.support.orchestrator.trips import BOOKING, NAMES


@pytest.fixture
def database_schema() -> Schema:
    return orchestrator_tables


@pytest.fixture
def articles() -> Scripted:
    participant = Scripted()
    participant.values["articles.hide-article.v1"] = {"title": "Tides", "version": 1}
    return participant


@pytest.fixture
def comments() -> Scripted:
    participant = Scripted()
    participant.values["comments.close-thread.v1"] = {"comments": 3}
    return participant


@pytest.fixture
def participants() -> dict[str, Scripted]:
    """Those of a trip: the seat has a number."""
    made = {name: Scripted() for name in NAMES}
    made["trains"].values["trains.reserve-seat.v1"] = {"number": "12a"}
    return made


@pytest.fixture
async def node(engine: AsyncEngine, participants: dict[str, Scripted]) -> AsyncIterator[Node]:
    async with running(engine, [BOOKING], participants) as started:
        yield started
