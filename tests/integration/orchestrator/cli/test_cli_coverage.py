"""`sagabox coverage`, called as a user calls it."""

from __future__ import annotations

import json

import pytest

from orchestrator.testing.coverage import COVERAGE, Tool, not_covered
from tests.support.processes.cli import sagabox


def test_it_shows_everything_side_by_side() -> None:
    result = sagabox("coverage")
    assert result.code == 0, result.err
    head, *lines = result.out.splitlines()
    assert head.split() == ["WHAT", "NAME", *Tool]
    assert len(lines) == len(COVERAGE)
    row = next(line for line in lines if "skips" in line)
    assert row.split() == ["fault", "skips", "yes", "no", "no"]


@pytest.mark.parametrize("tool", Tool)
def test_of_one_tool_it_says_how_and_what_is_left_out(tool: Tool) -> None:
    result = sagabox("coverage", tool.value)
    assert result.code == 0, result.err
    told = " ".join(result.out.split())
    assert [it.name for it in COVERAGE if it.by(tool).how not in told] == []
    assert [it.name for it in not_covered(tool) if it.by(tool).limits not in told] == []


def test_programs_get_one_document() -> None:
    result = sagabox("coverage", "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert [it["name"] for it in told] == [it.name for it in COVERAGE]
    assert all(set(it["tools"]) == set(Tool) for it in told)


def test_a_tool_that_is_none_is_refused_with_those_that_are() -> None:
    result = sagabox("coverage", "guesswork")
    assert result.code == 2
    assert all(tool.value in result.err for tool in Tool)
