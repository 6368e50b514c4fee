from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import guard
from benchmarks.catalogue import PARTS
from benchmarks.contenders import installed
from benchmarks.figures import Figures, Name
from benchmarks.goals import GOALS, Goal

FAST = ("here", "part", "row", "fast")
SLOW = ("here", "part", "row", "slow")
AT_LEAST = Goal("how fast", FAST, 5, SLOW, at_least=True)
AT_MOST = Goal("how slow", FAST, 5, SLOW)


def measured(fast: float, slow: float = 1.0) -> Figures:
    return Figures({FAST: fast, SLOW: slow})


def test_a_goal_is_a_limit_for_what_a_figure_is_of_another() -> None:
    assert AT_LEAST.measured(measured(12, 2)) == 6
    assert AT_LEAST.reached(5)
    assert not AT_LEAST.reached(4.9)
    assert AT_MOST.reached(5)
    assert not AT_MOST.reached(5.1)
    assert replace(AT_LEAST, against=None).measured(measured(12)) == 12


@pytest.mark.parametrize("values", [{}, {FAST: 1.0}, {SLOW: 1.0}, {FAST: 1.0, SLOW: 0.0}])
def test_without_both_figures_there_is_no_ratio(values: dict[Name, float]) -> None:
    assert AT_LEAST.measured(Figures(values)) is None


@pytest.mark.parametrize(
    ("goal", "now", "complains"),
    [
        (AT_LEAST, 5.9, True),
        (AT_LEAST, 6.1, False),
        (AT_LEAST, 99, False),
        (AT_MOST, 17, True),
        (AT_MOST, 16, False),
        (AT_MOST, 1, False),
    ],
)
def test_the_guard_complains_of_a_ratio_far_worse_than_the_recorded_one(
    goal: Goal, now: float, complains: bool
) -> None:
    said = list(guard.complaints(measured(now), measured(10), [goal]))

    assert bool(said) is complains
    assert not said or said == [f"{goal.title}: {now:.3g} x, and 10 x was recorded"]


def test_the_guard_says_nothing_of_values_and_of_what_was_not_measured() -> None:
    value = replace(AT_LEAST, against=None)

    assert not list(guard.complaints(measured(1), measured(100), [value]))
    assert not list(guard.complaints(Figures(), measured(100), [AT_LEAST]))
    assert not list(guard.complaints(measured(1), Figures(), [AT_LEAST]))


def test_each_goal_is_about_a_part_that_is_measured_for_the_table() -> None:
    assert len({goal.title for goal in GOALS}) == len(GOALS)
    parts = {part for part, it in PARTS.items() if it.usual}
    for goal in GOALS:
        for name in filter(None, (goal.figure, goal.against)):
            assert any(name[1] in (part, *PARTS[part].beside) for part in parts), goal.title


def test_figures_are_read_as_they_were_written() -> None:
    figures = Figures({FAST: 1.25, SLOW: 2.0}, {"DBOS": "it is not installed"})

    assert Figures.from_json(figures.as_json()) == figures


def test_new_figures_replace_those_of_the_same_name_and_leave_the_others() -> None:
    old = Figures({FAST: 1.0, SLOW: 2.0}, {"DBOS": "it was not there"})

    assert old.replaced_by(Figures({FAST: 3.0})) == Figures({FAST: 3.0, SLOW: 2.0})


def test_each_library_of_a_contender_is_pinned() -> None:
    assert all(version[0].isdigit() for version in installed.versions().values())
    assert {"dbos", "restate-sdk", "restate-server"} <= set(installed.versions())
