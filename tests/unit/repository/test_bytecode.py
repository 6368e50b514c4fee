from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes.bytecode import keep_bytecode


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment in which no bytecode is to be written."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    yield
    monkeypatch.undo()


def test_no_process_of_a_run_compiles_what_was_compiled_before() -> None:
    assert not sys.dont_write_bytecode
    code = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["False", str(sys.pycache_prefix)]


def test_where_bytecode_is_forbidden_it_lies_beside_no_source(
    forbidden: None, tmp_path: Path
) -> None:
    sources, folder = tmp_path / "sources", tmp_path / "folder"
    sources.mkdir()
    (sources / "made_up.py").write_text("")
    keep_bytecode(folder)
    subprocess.run([sys.executable, "-c", "import made_up"], cwd=sources, check=True)
    assert [it.name for it in sources.iterdir()] == ["made_up.py"]
    assert list(folder.rglob("made_up.*.pyc"))


def test_bytecode_of_an_earlier_run_stays_but_for_what_it_made_up(
    forbidden: None, tmp_path: Path
) -> None:
    here = tmp_path / Path(tempfile.gettempdir()).relative_to("/") / "old.pyc"
    there = tmp_path / "usr" / "old.pyc"
    for path in (here, there):
        path.parent.mkdir(parents=True)
        path.touch()
    keep_bytecode(tmp_path)
    assert not here.exists()
    assert there.exists()


def test_where_bytecode_may_be_written_it_stays_where_it_is(
    forbidden: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    keep_bytecode(tmp_path)
    assert sys.pycache_prefix is None
    assert os.environ["PYTHONPYCACHEPREFIX"] == ""
