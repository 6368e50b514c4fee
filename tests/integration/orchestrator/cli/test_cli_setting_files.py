"""The command takes its settings from files, before it does anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.databases.databases import Database, Schema
from tests.support.databases.migrating import migrated
from tests.support.processes.cli import sagabox, told_error

pytestmark = pytest.mark.databases("sqlite")

_DATABASE = "SAGABOX_DATABASE_URL_ORCHESTRATOR"


@pytest.fixture
def database_schema() -> Schema | str:
    return migrated("orchestrator")


@pytest.fixture
def address(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the address of the orchestrator's database, which the environment names."""
    path = tmp_path / "database"
    path.write_text(database.url + "\n")
    # First set, so that it is taken away again behind the test: the command itself sets it.
    monkeypatch.setenv(_DATABASE, "x")
    monkeypatch.delenv(_DATABASE)
    monkeypatch.setenv(f"{_DATABASE}_FILE", str(path))
    return path


def test_a_command_finds_its_database_by_a_file(address: Path) -> None:
    told = sagabox("token", "create", "ann", "--role", "viewer", "--json")
    assert told.code == 0, told


def test_the_migrations_find_it_so_too(address: Path) -> None:
    told = sagabox("migrate", "check", "orchestrator")
    assert told.code == 0, told


def test_a_missing_file_ends_the_command_with_what_happened(address: Path) -> None:
    address.unlink()
    error = told_error(sagabox("token", "list", "--json"))
    assert error["happened"] == f"the file that {_DATABASE}_FILE names cannot be used"
    assert str(address) in error["why"]
    assert error["exit_code"] == 2
