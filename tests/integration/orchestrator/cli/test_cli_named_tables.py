"""The commands that read a database themselves, where the library's tables there have a prefix."""

from __future__ import annotations

import json

import pytest

from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import address
from tests.support.databases.trapped import set_traps
from tests.support.fixtures import DatabaseFactory
from tests.support.processes.cli import sagabox

pytestmark = pytest.mark.slow

NAMED = {"SAGABOX_TABLE_PREFIX": "sagabox_"}


@pytest.fixture
def database_schema() -> Schema:
    return set_traps


def test_tokens_are_made_and_pending_commands_listed_beside_tables_of_others(
    database: Database,
) -> None:
    at = address(database)
    told = sagabox("migrate", "upgrade", "orchestrator", "--database", at, **NAMED)
    assert told.code == 0, told
    made = sagabox("token", "create", "ann", "--role", "viewer", "--database", at, **NAMED)
    assert made.code == 0, made
    listed = sagabox("token", "list", "--json", "--database", at, **NAMED)
    assert [it["name"] for it in json.loads(listed.out)["items"]] == ["ann"]
    pending = sagabox("pending", "list", "orchestrator", "--json", "--database", at, **NAMED)
    assert json.loads(pending.out)["items"] == []


def test_the_outbox_is_operated_beside_tables_of_others(database: Database) -> None:
    at = address(database)
    told = sagabox("migrate", "upgrade", "orchestrator", "--database", at, **NAMED)
    assert told.code == 0, told
    for words in (
        ("status",),
        ("dead",),
        ("held",),
        ("redrive", "--all"),
        ("drop", "--all"),
        ("purge", "--older-than", "1d"),
        ("schedule", "list"),
        ("schedule", "drop", "--all"),
        ("tail", "--for", "0s"),
        ("received", "list"),
        ("received", "redrive", "--all"),
        ("received", "drop", "--all"),
    ):
        found = sagabox("outbox", *words, "--database", at, "--json", **NAMED)
        assert found.code == 0, (words, found)


def test_the_audit_reads_the_tables_that_the_environment_names(
    database_factory: DatabaseFactory,
) -> None:
    names = ("articles", "comments", "orchestrator")
    places = {
        f"SAGABOX_DATABASE_URL_{name.upper()}": address(database_factory("empty")) for name in names
    }
    told = sagabox("migrate", "upgrade", "all", **NAMED, **places)
    assert told.code == 0, told
    audited = sagabox("audit", "--json", **NAMED, **places)
    assert audited.code == 0, audited
