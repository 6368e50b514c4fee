"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from outbox.adding.installation import install
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeSyncEngine
from tests.support.outbox.producers import ROUTES, business


@pytest.fixture
def database_schema() -> Schema:
    return business


@pytest.fixture
def engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    made = sessionmaker(engine)
    install(made, source="things", routes=ROUTES)
    return made
