"""The released version, which all tests of this tier compare with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.compatibility import describing
from tests.support.compatibility.released import NoHistory, Release, install, released_commit
from tests.support.compatibility.versions import VersionedBlog, versioned_blog
from tests.support.fixtures import DatabaseFactory

Described = Mapping[str, Any]
"""What a version offers, as `describing` writes it."""


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Release:
    """The released version, installed; all workers share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    commit = released_commit()
    try:
        return install(commit, shared / f"released-{commit[:12]}")
    except NoHistory as error:
        pytest.skip(f"the released version cannot be had from the history: {error}")


@pytest.fixture(scope="session")
def released_offers(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Described:
    """What the released version offers."""
    folder = tmp_path_factory.mktemp("released")
    return _described(release, release.environment(os.environ), folder)


@pytest.fixture(scope="session")
def offers(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Described:
    """What this version offers, of the modules that were public in the released one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    return _described(release, environment, tmp_path_factory.mktemp("this"))


def _described(release: Release, environment: Mapping[str, str], folder: Path) -> Described:
    made = subprocess.run(
        [sys.executable, "-P", str(describing.__file__), *release.reference],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    found: Described = json.loads(made.stdout)
    return found


@pytest.fixture
async def blog(
    release: Release, database_factory: DatabaseFactory, tmp_path: Path
) -> AsyncIterator[VersionedBlog]:
    """The blog with the tables of the released version; no instance runs yet."""
    async with versioned_blog(database_factory, tmp_path / "blog", release) as made:
        yield made
