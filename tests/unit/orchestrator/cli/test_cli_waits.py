"""What `sagabox list`, `show` and `watch` tell of a run that waits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.orchestrator.stub_orchestrator import (
    CREATED,
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    entry,
    saga,
    stream,
    summary,
)
from tests.support.processes.cli import sagabox

SILENCE = {"since": CREATED, "deliveries": 7, "reason": "no service listens"}
NEXT = "2030-01-01T12:00:09Z"


def waiting(word: str, **awaited: Any) -> dict[str, Any]:
    """A run whose step waits for that."""
    run = saga(waits_for=word)
    (step,) = run["steps"]
    return {**run, "steps": [{**step, "waits_for": word, "awaited": step["awaited"] | awaited}]}


RETRY = {"tries": 3, "error": "failed: RuntimeError: the press burns", "next_at": NEXT}


LATER = "2030-01-03T12:00:00Z"
PENDING = {
    "since": CREATED,
    "note": "",
    "expected_at": None,
    "is_late": False,
    "attempt": None,
    "holder": None,
    "until": None,
}
ASKED = PENDING | {"note": "the owner", "expected_at": LATER}
CALL = PENDING | {"attempt": 2, "holder": "payments-1", "until": LATER}


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (
            waiting("retry", **RETRY),
            f"3 deliveries failed, the next at {NEXT}: RuntimeError: the press burns",
        ),
        (
            waiting("participant", silence=SILENCE, next_at=NEXT),
            f"articles gives no answer since {CREATED}, 7 deliveries in a row, the next at {NEXT}: "
            "no service listens",
        ),
        (
            waiting("participant", **RETRY, silence=SILENCE),
            f"articles gives no answer since {CREATED}, 7 deliveries in a row, the next at {NEXT}: "
            "no service listens; 3 deliveries had failed: RuntimeError: the press burns",
        ),
        (
            waiting("lock", tries=2, error="locked: saga 7", next_at=NEXT),
            f"answered 2 times, the last time with locked: saga 7, the next at {NEXT}",
        ),
        (
            waiting("ongoing", tries=1, error="ongoing"),
            "answered once, the last time with ongoing",
        ),
        (
            waiting("retry", **RETRY | {"tries": 1}),
            f"1 delivery failed, the next at {NEXT}: RuntimeError: the press burns",
        ),
        (waiting("resume"), "nothing is sent until the run is resumed"),
        (waiting("pending", pending=PENDING), f"waits since {CREATED}"),
        (
            waiting("pending", pending=PENDING | {"note": "a manager approves it"}),
            f"waits since {CREATED}: a manager approves it",
        ),
        (
            waiting("pending", pending=ASKED, next_at=NEXT),
            f"waits since {CREATED}, expected by {LATER}, asked again at {NEXT}: the owner",
        ),
        (
            waiting("pending", pending=ASKED | {"is_late": True}),
            f"waits since {CREATED}, expected by {LATER}, which has passed: the owner",
        ),
        (
            waiting("pending", pending=CALL),
            f"waits since {CREATED}; attempt 2 by payments-1 until {LATER}",
        ),
    ],
    ids=[
        *("retry", "participant", "participant and retry", "lock"),
        *("answered once", "failed once", "resume"),
        *(
            "pending",
            "pending with a note",
            "pending for a person",
            "pending for too long",
            "a call",
        ),
    ],
)
def test_show_says_what_is_in_the_way_of_a_step(
    stub: StubOrchestrator, run: dict[str, Any], line: str
) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    told = sagabox("show", ID)
    assert f"in the way:\n  hide article: {line}\n" in told.out


def test_show_tells_the_reason_of_a_stuck_step_once(stub: StubOrchestrator) -> None:
    run = waiting("operator")
    run["steps"][0]["reason"] = "look at it"
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    told = sagabox("show", ID)
    assert told.out.count("look at it") == 1
    assert "in the way:\n  hide article: a person is needed: look at it\n" in told.out


def test_an_orchestrator_that_tells_nothing_of_waits_has_the_reason_below_the_step(
    stub: StubOrchestrator,
) -> None:
    run = waiting("operator")
    run["steps"][0]["reason"] = "look at it"
    del run["steps"][0]["waits_for"]
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    assert sagabox("show", ID).out.count("look at it") == 1


@pytest.mark.parametrize(("sendings", "often"), [(1, "once"), (3, "3 times")])
def test_show_says_how_often_a_command_was_sent(
    stub: StubOrchestrator, sendings: int, often: str
) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(waiting("answer", sendings=sendings)))
    assert f"(answer, sent {often})" in sagabox("show", ID).out


@pytest.mark.parametrize("word", ["answer", "something new"])
def test_show_has_no_line_for_what_needs_none(stub: StubOrchestrator, word: str) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(waiting(word)))
    assert "in the way" not in sagabox("show", ID).out


def test_an_orchestrator_that_tells_nothing_of_it_is_shown_all_the_same(
    stub: StubOrchestrator,
) -> None:
    run, listed = saga(), summary()
    (step,) = run["steps"]
    del run["waits_for"], step["waits_for"], listed["waits_for"]
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    stub.on("GET", "/sagas", Answer({"items": [listed], "next_cursor": None}))
    assert sagabox("show", ID).code == 0
    assert sagabox("list").code == 0


def test_list_has_a_word_for_each_run(stub: StubOrchestrator) -> None:
    runs = [summary(waits_for="participant"), summary("COMPLETED", id=OTHER)]
    stub.on("GET", "/sagas", Answer({"items": runs, "next_cursor": None}))
    first, second = sagabox("list").out.splitlines()[1:]
    assert "participant" in first
    assert "participant" not in second


def test_watch_tells_in_the_silence_what_a_run_waits_for_and_each_time_only_what_is_new(
    stub: StubOrchestrator,
) -> None:
    same = waiting("retry", **{**RETRY, "tries": 4})
    stub.on(
        "GET",
        f"/sagas/{ID}",
        Answer(saga()),
        Answer(waiting("retry", **RETRY)),
        Answer(same),
        Answer(waiting("participant", silence=SILENCE)),
        Answer(saga("COMPLETED")),
    )
    began, ended = stream(entry(1, "started")), stream(entry(2, "ended"))
    quiet = replace(began, body=f"{began.body}: alive\n\n{ended.body}")
    stub.on("GET", f"/sagas/{ID}/events", quiet)
    told = sagabox("watch", ID)
    waits = [it for it in told.out.splitlines() if it.startswith("  waits:")]
    assert [it.partition(":")[2].partition(",")[0] for it in waits] == [
        " hide article: 3 deliveries failed",
        f" hide article: articles gives no answer since {CREATED}",
    ]


def test_watch_tells_for_whom_a_run_waits_once_and_again_where_that_changes(
    stub: StubOrchestrator,
) -> None:
    asked = [waiting("pending", pending=ASKED, next_at=it) for it in (NEXT, LATER)]
    other = waiting("pending", pending=ASKED | {"note": "the bank"})
    stub.on(
        *("GET", f"/sagas/{ID}"),
        *map(Answer, (saga(), *asked, other, saga("COMPLETED"))),
    )
    began, ended = stream(entry(1, "started")), stream(entry(2, "ended"))
    alive = ": alive\n\n"
    stub.on("GET", f"/sagas/{ID}/events", replace(began, body=f"{began.body}{alive}{ended.body}"))
    waits = [it for it in sagabox("watch", ID).out.splitlines() if it.startswith("  waits:")]
    assert [it.rpartition(": ")[2] for it in waits] == ["the owner", "the bank"]


def test_watch_as_json_is_silent_until_the_end(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(waiting("retry", **RETRY)), Answer(saga("COMPLETED")))
    stub.on("GET", f"/sagas/{ID}/events", stream(entry(1, "started"), entry(2, "ended")))
    assert json.loads(sagabox("watch", ID, "--json").out)["saga"]["status"] == "COMPLETED"


def test_show_lists_the_effects_that_no_run_accounts_for(stub: StubOrchestrator) -> None:
    strays = [{"step": "hide article", "command_id": it, "at": CREATED} for it in (ID, OTHER)]
    stub.on("GET", f"/sagas/{ID}", Answer(saga("COMPENSATED", stray_effects=strays)))
    shown = sagabox("show", ID).out
    for id in (ID, OTHER):
        assert f"stray effect  hide article, command {id}, told at {CREATED}\n" in shown
    older = saga("COMPENSATED")
    del older["stray_effects"]
    stub.on("GET", f"/sagas/{ID}", Answer(older))
    assert "stray" not in sagabox("show", ID).out
