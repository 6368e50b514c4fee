"""Runs named by the beginning of their ids, and steps that need not be named."""

from __future__ import annotations

import pytest

from tests.support.orchestrator.stub_orchestrator import (
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    entry,
    saga,
    stream,
    summary,
)
from tests.support.processes.cli import sagabox, told_error

BEGINNING = ID[:13]


def listed(stub: StubOrchestrator, *ids: str) -> None:
    runs = [summary(id=it) for it in ids]
    stub.on("GET", "/sagas", Answer({"items": runs, "next_cursor": None}))


@pytest.mark.parametrize("typed", [BEGINNING, BEGINNING.upper(), ID[:1], ID[:9], ID[:-1]])
def test_a_beginning_that_one_run_has_is_that_run(stub: StubOrchestrator, typed: str) -> None:
    listed(stub, ID)
    stub.on("GET", f"/sagas/{ID}", Answer(saga("COMPLETED")))
    stub.on("GET", f"/sagas/{ID}/events", stream(entry(1, "ended")))
    stub.on("POST", f"/sagas/{ID}/pause", Answer(saga(), 202))
    assert sagabox("show", typed).out.startswith(f"id       {ID}")
    assert stub.asked[0].query["id_prefix"] == [typed.lower()]
    assert sagabox("watch", typed).code == 0
    assert sagabox("pause", typed, "--reason", "r").code == 0


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (("show",), "sagabox show ID"),
        (("watch",), "sagabox watch ID"),
        (("cancel", "--reason", "r"), "sagabox cancel ID"),
    ],
    ids=["show", "watch", "cancel"],
)
def test_a_beginning_that_several_runs_have_leads_to_them(
    stub: StubOrchestrator, words: tuple[str, ...], again: str
) -> None:
    listed(stub, OTHER, ID)
    told = sagabox(*words, BEGINNING, "--json")
    assert told.code == 2
    error = told_error(told)
    assert error["happened"] == f"the ids of several runs begin with {BEGINNING}"
    assert f"{OTHER} (delete-article v1, RUNNING, key a1), {ID} " in error["why"]
    assert error["next_step"].startswith(again)
    assert [it.path for it in stub.asked] == ["/sagas"]


def test_of_very_many_runs_ten_are_named(stub: StubOrchestrator) -> None:
    listed(stub, *(f"{ID[:-2]}{number:02}" for number in range(11)))
    why = told_error(sagabox("show", BEGINNING, "--json"))["why"]
    assert (why.count(BEGINNING), why.endswith(", ...")) == (10, True)


def test_a_beginning_that_no_run_has_is_told(stub: StubOrchestrator) -> None:
    listed(stub)
    told = sagabox("show", "abc", "--json")
    assert told.code == 2
    assert told_error(told)["happened"] == "there is no run whose id begins with abc"


def test_what_an_older_orchestrator_lists_instead_is_not_taken_for_it(
    stub: StubOrchestrator,
) -> None:
    """It does not know the filter."""
    listed(stub, OTHER, ID)
    told = sagabox("show", "ffff")
    assert (told.code, "there is no run whose id begins with ffff" in told.err) == (2, True)


def stuck(*names: str) -> Answer:
    (step,) = saga()["steps"]
    steps = [step | {"name": it, "status": "STUCK"} for it in names]
    return Answer(saga("STUCK", steps=[step | {"name": "another"}, *steps]))


@pytest.mark.parametrize("verb", ["retry", "skip"])
def test_the_one_step_that_is_stuck_need_not_be_named(stub: StubOrchestrator, verb: str) -> None:
    stub.on("GET", f"/sagas/{ID}", stuck("ship it"))
    stub.on("POST", f"/sagas/{ID}/{verb}", Answer(saga(), 202))
    assert sagabox(verb, ID, "--reason", "r", "--actor", "a").code == 0
    assert stub.asked[-1].body == {"reason": "r", "actor": "a", "step": "ship it"}


def test_where_several_steps_are_stuck_the_commands_for_each_are_told(
    stub: StubOrchestrator,
) -> None:
    stub.on("GET", f"/sagas/{ID}", stuck("ship it", "bill"))
    told = sagabox("retry", ID, "--reason", "r", "--json")
    assert told.code == 2
    assert told_error(told)["next_step"] == (
        f"sagabox retry {ID} --step 'ship it' --reason REASON | "
        f"sagabox retry {ID} --step bill --reason REASON"
    )
    assert {it.method for it in stub.asked} == {"GET"}


def test_where_no_step_is_stuck_that_is_told(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", stuck())
    told = sagabox("skip", ID, "--reason", "r")
    assert (told.code, "none of its steps is stuck" in told.err) == (2, True)


@pytest.mark.parametrize(("count", "named"), [(1, ""), (2, " --step STEP")])
def test_show_names_the_step_only_where_that_is_needed(
    stub: StubOrchestrator, count: int, named: str
) -> None:
    run = stuck(*map(str, range(count))).body | {"allowed": ["retry"]}
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    assert f"  sagabox retry {ID}{named} --reason REASON\n" in sagabox("show", ID).out
