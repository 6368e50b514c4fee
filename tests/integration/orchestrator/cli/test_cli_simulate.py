"""`sagabox simulate`, called as a user calls it."""

from __future__ import annotations

import json

from orchestrator.testing.virtual.chances import Fault
from tests.support.processes.cli import sagabox


def test_it_says_how_many_histories_there_were_and_what_went_wrong_in_them() -> None:
    result = sagabox("simulate", "delete-article", "--histories", "60", "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["histories"] == 60
    assert told["failure"] is None
    assert set(told["faults"]) <= {fault.name.lower() for fault in Fault}
    assert told["ends"]["COMPLETED"] > 30


def test_one_history_can_be_looked_at_with_chosen_faults() -> None:
    result = sagabox("simulate", "delete-article", "--seed", "7", "--only", "node_crash:0")
    assert result.code == 0, result.err
    assert "takes effect" in result.out
    assert "Every promise held." in result.out


def test_what_is_no_fault_is_refused_with_an_example() -> None:
    result = sagabox("simulate", "--only", "meteor:1")
    assert result.code == 2
    assert "node_crash:3,skew:0" in result.err
