"""What the demo says of what it found; a check that finds something else is broken."""

from __future__ import annotations

import pytest

from orchestrator.cli.demo.checks import Check, Outcome, differences, midway
from orchestrator.cli.demo.play import require_held
from orchestrator.cli.terminal.errors import CommandError, ExitCode

_ONE = {"id": "1", "content": "first", "author": "bob"}
_TWO = {"id": "2", "content": "second", "author": "bob"}
_HELD = Check("there are two", 2, 2)
_BROKEN = Check("there are two", 2, 1)


def _outcome(*checks: Check) -> Outcome:
    return Outcome("(x) a scene", "COMPLETED", 0.1, "counted", checks)


def test_the_same_comments_in_another_order_do_not_differ() -> None:
    assert differences([_ONE, _TWO], [_TWO, _ONE]) == []


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ([_ONE], "2 is missing"),
        ([_ONE, _TWO, {**_TWO, "id": "3"}], "3 was not there before"),
        ([_ONE, {**_TWO, "content": "other"}], "2 has another content"),
        ([_ONE, {**_TWO, "edited": True}], "2 has another edited"),
        ([_ONE, _TWO, _TWO], "2 is there twice"),
    ],
    ids=["missing", "more", "changed", "another field", "twice"],
)
def test_each_difference_is_told(after: list[dict[str, object]], told: str) -> None:
    assert differences([_ONE, _TWO], after) == [told]


def _saga(status: str, hide: str, close: str) -> dict[str, object]:
    steps = [{"name": "hide article", "status": hide}, {"name": "close thread", "status": close}]
    return {"status": status, "steps": steps}


def test_the_middle_is_where_one_step_is_done_and_the_next_is_asked_for() -> None:
    assert midway(_saga("RUNNING", "DONE", "SENT")).held


@pytest.mark.parametrize(
    "saga",
    [
        None,
        _saga("RUNNING", "SENT", "PENDING"),
        _saga("RUNNING", "DONE", "DONE"),
        _saga("COMPLETED", "DONE", "SENT"),
    ],
    ids=["no run", "before", "behind", "ended"],
)
def test_elsewhere_is_not_the_middle(saga: dict[str, object] | None) -> None:
    assert not midway(saga).held


def test_a_demo_whose_checks_held_is_fine() -> None:
    require_held([_outcome(_HELD), _outcome(_HELD, _HELD)])


@pytest.mark.parametrize(
    ("outcomes", "named"),
    [
        ([_outcome(_HELD), _outcome(_HELD, _BROKEN)], "there are two: expected 2, found 1"),
        ([_outcome(_HELD), _outcome()], "nothing was checked"),
        ([], "nothing was played"),
    ],
    ids=["broken", "unchecked", "empty"],
)
def test_any_other_demo_ends_with_an_error_that_names_the_check(
    outcomes: list[Outcome], named: str
) -> None:
    with pytest.raises(CommandError, match=named) as caught:
        require_held(outcomes)
    assert caught.value.exit_code is ExitCode.OTHERWISE


def test_an_outcome_holds_only_with_all_of_its_checks() -> None:
    assert _outcome(_HELD).held
    assert not _outcome(_HELD, _BROKEN).held
    assert not _outcome().held
