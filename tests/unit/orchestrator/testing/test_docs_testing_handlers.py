"""The page on testing handlers shows what its example does, and tells all that a world can do."""

from __future__ import annotations

import inspect

from orchestrator.testing import SagaWorld
from tests.support.checkout import ROOT
from tests.support.repository.manual import blocks

PAGE = "docs/guide/testing-handlers.md"
EXAMPLE = ROOT / "examples" / "testing_a_saga"


def test_its_snippets_are_those_of_the_example_which_is_run() -> None:
    sources = [path.read_text() for path in EXAMPLE.glob("*.py")]
    shown = blocks(PAGE, "python")
    assert len(shown) == 12
    assert [it for it in shown if not any(f"\n{it}" in source for source in sources)] == []


def test_it_tells_everything_that_a_world_can_do() -> None:
    text = (ROOT / PAGE).read_text()
    for_checks = {"close", "course", "effects", "participants", "points", "snapshot", "wait_for"}
    for_checks |= {"is_unknown", "require_completed"}
    names = {name for name, _ in inspect.getmembers(SagaWorld) if not name.startswith("_")}
    assert [it for it in sorted(names - for_checks) if f"`{it}(" not in text] == []


def test_the_bug_that_it_shows_is_one_line_of_the_example() -> None:
    assert (EXAMPLE / "trips.py").read_text().count("grand.free += 1\n") == 1
    assert "`grand.free += 1`" in (ROOT / PAGE).read_text()


def test_the_refusal_that_it_shows_is_taken_back_by_one_line_of_the_example() -> None:
    line = "    session.execute(delete(Question).where(Question.part == part))\n"
    assert (EXAMPLE / "parts.py").read_text().count(line) == 1
