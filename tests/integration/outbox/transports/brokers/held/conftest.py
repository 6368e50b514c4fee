"""What the tests of this folder ask for."""

from __future__ import annotations

import pytest

from tests.support.databases.databases import Schema
from tests.support.outbox.inboxes import ledger_schema


@pytest.fixture
def database_schema() -> Schema:
    return ledger_schema
