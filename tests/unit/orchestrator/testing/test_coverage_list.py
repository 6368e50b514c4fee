"""The list of what is tried and what is not names everything that there is."""

from __future__ import annotations

from dataclasses import fields

import pytest

from orchestrator.definition.steps import Kind
from orchestrator.testing import Faults
from orchestrator.testing.coverage import COVERAGE, Subject, Tool, not_covered
from orchestrator.testing.exploring.model.promises import MEANINGS
from orchestrator.testing.virtual.chances import Fault
from outbox import transports
from outbox.replies import Outcome
from tests.support.faults.crashing import POINTS

NOT_OF_SAGAS = {"consumer", "held", "retention"}
"""The parts that no world of `check_saga` has: it has no broker, and no run in it gets old."""


def named(subject: Subject) -> dict[str, bool]:
    """The rows of that sort, and whether the explorer covers them."""
    return {row.name: bool(row.explore.how) for row in COVERAGE if row.subject is subject}


def test_every_fault_of_the_explorer_is_listed_as_covered() -> None:
    rows = named(Subject.FAULT)
    assert [it.name for it in fields(Faults) if not rows.get(it.name)] == []


def test_every_fault_of_the_simulation_is_listed_as_covered() -> None:
    told = " ".join(row.simulate.how for row in COVERAGE)
    assert [it.name.lower() for it in Fault if it.name.lower() not in told] == []


def test_every_promise_is_listed_and_those_that_are_checked_as_covered() -> None:
    rows = named(Subject.PROMISE)
    assert {f"P{number}" for number in range(1, 10)} <= rows.keys()
    assert [it for it in MEANINGS if not rows[it]] == []


def test_every_kind_of_step_is_listed() -> None:
    assert set(Kind) <= named(Subject.CONSTRUCT).keys()


def test_every_answer_of_a_participant_is_listed() -> None:
    told = " ".join(f"{row.name} {row.explore.how}" for row in COVERAGE)
    by_the_barrier = {Outcome.ALREADY_UNDONE, Outcome.NOTHING_TO_UNDO}
    words = {outcome: outcome.value for outcome in Outcome if outcome not in by_the_barrier}
    assert [it for it, word in words.items() if word not in told] == []


def test_every_transport_is_listed() -> None:
    there = {it.removesuffix("Transport").lower() for it in transports.__all__ if "Tran" in it}
    assert named(Subject.TRANSPORT).keys() == there - {""}


def test_every_part_that_has_crash_points_is_listed_for_those_who_die_there() -> None:
    crashes = next(row for row in COVERAGE if row.name == "crashes")
    parts = {it.partition(":")[0] for it in POINTS} - NOT_OF_SAGAS
    assert [it for it in parts if it not in crashes.check_saga.how] == []


@pytest.mark.parametrize("tool", Tool)
def test_a_row_names_one_thing_and_what_is_not_covered_says_why(tool: Tool) -> None:
    names = [(row.subject, row.name) for row in COVERAGE]
    assert len(names) == len(set(names))
    assert all(row.by(tool).how or row.by(tool).limits for row in COVERAGE)
    assert all(row.by(tool).limits for row in not_covered(tool))
