"""What `docs/reference/consistency.md` says is tried, is there, and all that is there is told."""

from __future__ import annotations

import re

import pytest

from tests.support.checkout import ROOT
from tests.support.faults.chaos import FAULTS

# These have pages of their own.
_OTHERS = {
    "test_histories_on_databases.py",
    "test_mutants.py",
    "test_random_histories.py",
    "test_second_lines.py",
}


def between(mark: str) -> str:
    text = (ROOT / "docs" / "reference" / "consistency.md").read_text("utf-8")
    found = re.search(f"<!-- {mark} -->\n(.*?)<!-- end of {mark} -->", text, re.S)
    assert found is not None
    return found[1]


def table() -> list[list[str]]:
    lines = between("scenarios").splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("row", table(), ids=lambda row: row[0])
def test_a_scenario_of_the_table_is_a_test_that_is_there(row: list[str]) -> None:
    fault, scenario, _promise, figure = row
    files = re.findall("`([^`]+)`", scenario)
    assert fault
    assert figure
    assert files
    assert [it for it in files if not (ROOT / it).is_file()] == []


def test_a_fault_has_one_row_and_so_one_figure() -> None:
    faults = [(fault, scenario) for fault, scenario, *_ in table()]
    assert sorted(set(faults)) == sorted(faults)


def test_every_scenario_is_in_the_table() -> None:
    told = set(re.findall(r"`tests/consistency/(test_\w+\.py)`", between("scenarios")))
    there = {it.name for it in (ROOT / "tests" / "consistency").glob("test_*.py")} - _OTHERS
    assert told == there


def test_every_kind_of_fault_of_a_soak_run_is_told() -> None:
    assert [line.removeprefix("- ") for line in between("kinds").splitlines()] == [*FAULTS]
