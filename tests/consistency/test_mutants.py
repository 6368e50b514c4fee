"""Every kept bug is found: by the histories around the one that found it when that was measured
last. `make soak` looks from the first history on.

`python -m tests.support.mutants.table` measures all of them, and writes the table of
docs/internals/testing-mutants.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mutants.mutants import FOLDER, DoesNotApply, Hunk, Mutant, Tool, mutants, parsed
from tests.support.mutants.server import MutantServer
from tests.support.mutants.table import DOCUMENT, as_measured, table
from tests.support.repository.reporting import Count

MUTANTS = mutants()
AT_LEAST = 24
_BEFORE = {Tool.SIMULATE: 10, Tool.DATABASE: 2}
"""How many histories before the one that found it are looked at too."""


@pytest.fixture(scope="module")
def server() -> Iterator[MutantServer]:
    made = MutantServer()
    yield made
    made.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.name)
def test_the_kit_finds_the_mutant(mutant: Mutant, server: MutantServer, count: Count) -> None:
    first = max(0, mutant.found - 1 - _BEFORE.get(mutant.tool, 0))
    found = server.search(mutant, range(first, first + mutant.within))
    assert found.promise, (
        f"nothing that the kit looks at breaks although {mutant.about} Look from the start with "
        f"`python -m tests.support.mutants.table {mutant.name}`"
    )
    assert found.promise in mutant.breaks, found.problem
    count("mutants found", 1)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.name)
def test_the_kit_finds_the_mutant_from_the_first_history_on(
    mutant: Mutant, server: MutantServer
) -> None:
    found = server.search(mutant, range(mutant.within))
    assert found.promise in mutant.breaks, found.problem
    assert as_measured(mutant, found) == mutant, "run `python -m tests.support.mutants.table`"


def test_there_are_enough_of_them_and_every_tool_has_some() -> None:
    assert len(MUTANTS) >= AT_LEAST
    assert {it.tool for it in MUTANTS} == set(Tool)
    assert all(0 < it.found <= it.within for it in MUTANTS)


def test_the_page_has_the_mutants_with_what_it_takes_to_find_them() -> None:
    assert table(MUTANTS) in DOCUMENT.read_text(), "run `python -m tests.support.mutants.table`"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.name)
def test_the_mutant_is_of_shipped_code_and_can_be_compiled(mutant: Mutant) -> None:
    for path in mutant.hunks:
        assert path.startswith(("outbox/", "orchestrator/", "articles/", "comments/"))
        assert not path.startswith("orchestrator/testing/")
        compile(mutant.source(path), path, "exec")


# The patches


PATCH = """Nothing comes back (P1).

Tool: simulate
Breaks: P1
Found: 3
Within: 9
--- outbox/coordination/bell.py
+++ outbox/coordination/bell.py
@@ -1,2 +1,2 @@
 {context}
-{removed}
+another line
"""


def test_a_patch_is_read() -> None:
    mutant = parsed("one", PATCH.format(context="as it was", removed="one line"))
    assert (mutant.about, mutant.tool) == ("Nothing comes back (P1).", Tool.SIMULATE)
    assert (mutant.breaks, mutant.found, mutant.within) == (("P1",), 3, 9)
    assert mutant.modules == ("outbox.coordination.bell",)
    assert mutant.hunks == {
        "outbox/coordination/bell.py": [Hunk("as it was\none line\n", "as it was\nanother line\n")]
    }


@pytest.mark.parametrize(
    ("context", "removed", "times"),
    [("a line that is not there", "nor this one", "0"), ("", "", "[0-9]{2}")],
)
def test_a_patch_that_does_not_apply_says_so(context: str, removed: str, times: str) -> None:
    mutant = parsed("old", PATCH.format(context=context, removed=removed))
    with pytest.raises(
        DoesNotApply, match=f"stands {times} times in outbox/coordination/bell.py, not once"
    ):
        mutant.source("outbox/coordination/bell.py")


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("Tool: simulate\n", "", "wants a sentence, Tool"),
        ("--- outbox", "--- somewhere/outbox", "must keep its name"),
        ("@@ -1,2 +1,2 @@", "@@ -1,3 +1,3 @@", "ends too early"),
        ("@@ -1,2 +1,2 @@", "@@", "no part of a unified diff"),
    ],
)
def test_a_patch_that_cannot_be_read_says_why(right: str, wrong: str, problem: str) -> None:
    text = PATCH.format(context="a", removed="b")
    assert right in text
    with pytest.raises(ValueError, match=problem):
        parsed("broken", text.replace(right, wrong))


def test_nothing_but_patches_lies_beside_the_patches() -> None:
    assert {it.suffix for it in FOLDER.iterdir()} == {".patch"}
