"""A run tells why tests were skipped, and fails where servers were required."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.repository.reporting import REQUIRE_SERVERS, TIERS, tier_of

_TESTS = """
import pytest

def test_that_passes():
    pass

def test_that_is_skipped():
    pytest.skip("no server here")

@pytest.mark.skipif(True, reason="not today")
def test_that_a_marker_skips():
    pass

@pytest.mark.xfail(reason="known")
def test_that_is_known_to_fail():
    assert False
"""
_MODULE = """
import pytest
pytest.skip("no broker here", allow_module_level=True)
"""


def _run(
    folder: Path, tests: str, *, required: bool, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p tests.support.repository.reporting\n"
    )
    (folder / "unit").mkdir()
    (folder / "unit" / "test_some.py").write_text(tests)
    environment = {k: v for k, v in os.environ.items() if k != REQUIRE_SERVERS}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment |= {REQUIRE_SERVERS: "1"} if required else {}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "unit"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        timeout=60,
    )


def test_the_reasons_of_skips_and_the_time_of_each_tier_are_printed(tmp_path: Path) -> None:
    run = _run(tmp_path, _TESTS, required=False)
    assert run.returncode == 0, run.stdout
    assert "skipped, and why" in run.stdout
    for reason in ("no server here", "not today"):
        assert f"1 x {reason}" in run.stdout
    assert re.search(r"^unit +\d tests +\d+\.\d s$", run.stdout, re.MULTILINE), run.stdout
    assert run.stdout.splitlines()[-1].strip("= ").startswith("1 passed, 2 skipped, 1 xfailed")


def test_a_skip_is_a_failure_where_servers_are_required(tmp_path: Path) -> None:
    run = _run(tmp_path, _TESTS, required=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
    for reason in ("no server here", "not today"):
        assert f"skipped although {REQUIRE_SERVERS} is set: {reason}" in run.stdout
    closing = run.stdout.splitlines()[-1].strip("= ")
    # What a marker skips never comes to its call, so it is an error instead of a failure.
    assert closing.startswith("1 failed, 1 passed, 1 xfailed, 1 error")


def test_a_module_that_is_skipped_as_a_whole_is_a_failure_too(tmp_path: Path) -> None:
    run = _run(tmp_path, _MODULE, required=True)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, run.stdout
    assert f"skipped although {REQUIRE_SERVERS} is set: no broker here" in run.stdout


def test_a_module_may_be_skipped_as_a_whole_where_they_are_not(tmp_path: Path) -> None:
    run = _run(tmp_path, _MODULE, required=False)
    assert run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, run.stdout
    assert "1 x no broker here" in run.stdout


@pytest.mark.parametrize("tier", TIERS)
def test_a_test_belongs_to_the_tier_of_its_folder(tier: str) -> None:
    assert tier_of(f"tests/{tier}/test_it.py::test_this[unit/integration]") == tier


def test_a_test_outside_of_the_tiers_is_not_lost() -> None:
    assert tier_of("benchmarks/test_it.py::test_this") == "other"


def test_the_same_is_printed_where_several_processes_share_the_tests(tmp_path: Path) -> None:
    options = ("-p", "xdist", "-n", "2")
    run = _run(tmp_path, _TESTS, required=False, options=options)
    assert run.returncode == 0, run.stdout
    assert "no server here" in run.stdout
    assert re.search(r"^unit +\d+ tests", run.stdout, re.MULTILINE)
    (tmp_path / "again").mkdir()
    assert _run(tmp_path / "again", _TESTS, required=True, options=options).returncode == 1
