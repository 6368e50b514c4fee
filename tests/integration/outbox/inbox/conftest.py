"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from outbox.inbox.runners import Sessions
from outbox.wire.envelope import Envelope
from tests.support.databases.databases import Database, Schema
from tests.support.fixtures import MakeEngine, MakeSyncEngine
from tests.support.outbox.calls import Provider, asked
from tests.support.outbox.inboxes import Bench, Book, Names, Unbook, ledger_schema


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema


@pytest.fixture
def bench(engine: AsyncEngine) -> Bench:
    return Bench(engine)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def action(names: Names) -> Envelope:
    """A command whose answer is awaited."""
    return asked(names(), Book("a"))


@pytest.fixture
def undo(names: Names, action: Envelope) -> Envelope:
    """The undo of that action."""
    names()
    return asked(names(), Unbook("a"), undoes=(action.id,))


@pytest.fixture(params=["on the loop", "in threads"])
def ground(request: pytest.FixtureRequest) -> str:
    """Where the transactions of the inbox run."""
    kind: str = request.param
    return kind


@pytest.fixture
def sessions(
    ground: str, database: Database, make_engine: MakeEngine, make_sync_engine: MakeSyncEngine
) -> Sessions:
    """The sessions of an inbox on that ground."""
    if ground == "in threads":
        return sessionmaker(make_sync_engine(database))
    return async_sessionmaker(make_engine(database))


@pytest.fixture
def small_pool(
    ground: str, database: Database, make_engine: MakeEngine, make_sync_engine: MakeSyncEngine
) -> Sessions:
    """The same with a single connection."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
    if ground == "in threads":
        return sessionmaker(make_sync_engine(database, **options))
    return async_sessionmaker(make_engine(database, **options))


@pytest.fixture
def provider(sessions: Sessions) -> Provider:
    return Provider.on(sessions)


@pytest.fixture
def sync_engine(make_sync_engine: MakeSyncEngine, database: Database) -> Engine:
    return make_sync_engine(database)
