"""The database of the tests: a PostgreSQL where TEST_DATABASE_URL names one, else SQLite."""

import os

import pytest


@pytest.fixture(scope="session")
def saga_database() -> str | None:
    return os.environ.get("TEST_DATABASE_URL")
