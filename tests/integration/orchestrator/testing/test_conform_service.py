"""`examples/trial_service`, a service on the library, keeps the wire contract on both databases."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from orchestrator.testing.conforming.running import TRIALS
from outbox import tables
from tests.support.checkout import ROOT
from tests.support.databases.databases import Database, Schema
from tests.support.processes.cli import sagabox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a machine may have much else to do

SERVICE = "trial_service.service"


@pytest.fixture
def database_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Schema]:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setenv("TRIAL_DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/not-used")
    module = importlib.import_module(SERVICE)
    yield _schema(module.Base.metadata.create_all)
    for name in [it for it in sys.modules if it.split(".")[0] == "trial_service"]:
        del sys.modules[name]


def _schema(own: Schema) -> Schema:
    def make(connection: Connection) -> None:
        tables.metadata.create_all(connection)
        own(connection)

    return make


def test_a_service_on_the_library_keeps_the_contract(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAL_DATABASE_URL", database.url)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [ROOT, ROOT / "examples"])))
    told = sagabox("conform", "--module", f"{SERVICE}:service", "--timeout", "30")
    assert told.code == 0, told.out
    assert told.out.splitlines()[-1] == f"{len(TRIALS)} passed"


def test_a_module_that_does_not_serve_is_told_with_its_log() -> None:
    told = sagabox("conform", "--module", "nowhere.at_all:service")
    assert told.code == 2
    assert "does not serve" in told.err
    assert "nowhere" in told.err
