"""The second try of what failed with real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

FIRST_TIME = """
from pathlib import Path
def test_it():
    mark = Path(__file__).with_suffix(".tried")
    was_there = mark.exists()
    mark.touch()
    {before}
    assert was_there, {why!r}
"""
HALF_DONE = """
from pathlib import Path
def assert_ended_rightly():
    mark = Path(__file__).with_suffix(".tried")
    was_there = mark.exists()
    mark.touch()
    assert ("COMPLETED" if was_there else "RUNNING") == "COMPLETED"
def test_it():
    assert_ended_rightly()
"""
IN_A_GROUP = """
import asyncio
from pathlib import Path
class PromiseBroken(Exception): pass
async def both():
    async def one():
        mark = Path(__file__).with_suffix(".tried")
        was_there = mark.exists()
        mark.touch()
        if not was_there:
            raise {error}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one())
def test_it():
    asyncio.run(both())
"""
ALWAYS = "def test_it():\n    assert not 'here'\n"


def run(folder: Path, *options: str, **tests: str) -> subprocess.CompletedProcess[str]:
    """Run these tests, by `tier__name`."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, source in tests.items():
        tier, _, stem = name.partition("__")
        path = folder / "tests" / tier / f"test_{stem}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    plugin = ["-p", "tests.support.repository.again", "-p", "no:sagabox", "-p", "no:schemathesis"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, *options, "tests"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def first_time(why: str = "the machine is busy", before: str = "pass") -> str:
    """A test that fails when it runs for the first time."""
    return FIRST_TIME.format(why=why, before=before)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_a_busy_machine_fails_is_run_once_more_and_told(
    tmp_path: Path, processes: str
) -> None:
    ended = run(tmp_path, "--again", "-n", processes, integration__one=first_time())
    assert ended.returncode == 0, ended.stdout
    assert "the machine is busy" in ended.stdout, "the first failure is told"
    _, said = ended.stdout.split(" a second try, with nothing beside it ")
    assert "passed:\ntests/integration/test_one.py::test_it\n" in said


def test_a_checker_that_passed_before_forbids_no_second_try(tmp_path: Path) -> None:
    test = first_time(before="require_all()")
    ended = run(tmp_path, "--again", integration__one="def require_all():\n    pass\n" + test)
    assert ended.returncode == 0, ended.stdout
    assert "require_all()" in ended.stdout


def test_a_group_of_other_errors_has_one_too(tmp_path: Path) -> None:
    test = IN_A_GROUP.format(error="TimeoutError('busy')")
    ended = run(tmp_path, "--again", integration__one=test)
    assert ended.returncode == 0, ended.stdout


def test_without_the_option_there_is_no_second_try(tmp_path: Path) -> None:
    ended = run(tmp_path, integration__one=first_time())
    assert ended.returncode == 1
    assert "a second try" not in ended.stdout


def test_what_fails_again_fails_the_run(tmp_path: Path) -> None:
    ended = run(tmp_path, "--again", integration__one=first_time(), acceptance__two=ALWAYS)
    assert ended.returncode == 1
    assert "failed again:" in ended.stdout


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ({"unit__one": first_time()}, "the machine decides nothing in a test of the tier unit"),
        ({"consistency__one": first_time()}, "in a test of the tier consistency"),
        ({"acceptance__one": first_time("violations: 1")}, "its failure tells of a promise"),
        (
            {"acceptance__one": first_time(), "acceptance__two": first_time("PromiseBroken: P1")},
            "its failure tells of a promise",
        ),
        ({"acceptance__one": HALF_DONE}, "its failure tells of a promise"),
        (
            {"acceptance__one": IN_A_GROUP.format(error="PromiseBroken('P1')")},
            "its failure tells of a promise",
        ),
        (
            {"acceptance__one": first_time().replace("def test_it", "def test_p4_it")},
            "its failure tells of a promise",
        ),
        (
            {f"integration__{it}": first_time() for it in ("one", "two", "three", "four")},
            "4 tests failed, which is more than 3",
        ),
    ],
    ids=["unit", "consistency", "promise", "one of two", "checker", "group", "named", "many"],
)
def test_some_failures_are_not_the_machines(
    tmp_path: Path, tests: dict[str, str], why: str
) -> None:
    ended = run(tmp_path, "--again", **tests)
    assert ended.returncode == 1
    assert why in ended.stdout


def test_what_cannot_be_collected_fails_the_run(tmp_path: Path) -> None:
    tests = {"integration__one": "import nothing_there", "integration__two": first_time()}
    for processes in ("0", "2"):
        assert run(tmp_path, "--again", "-n", processes, **tests).returncode != 0


def test_a_process_that_ended_is_not_the_machines(tmp_path: Path) -> None:
    dies = first_time(before="import os; was_there or os._exit(9)")
    ended = run(tmp_path, "--again", "-n", "1", integration__one=dies)
    assert ended.returncode == 1
    assert "its process ended" in ended.stdout
