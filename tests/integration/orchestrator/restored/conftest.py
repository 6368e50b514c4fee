"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest

from tests.support.blog.audited import Audited
from tests.support.fixtures import DatabaseFactory, MakeSyncEngine


@pytest.fixture
def blog(database_factory: DatabaseFactory, make_sync_engine: MakeSyncEngine) -> Audited:
    """The three databases, empty."""
    return Audited(database_factory, make_sync_engine)
