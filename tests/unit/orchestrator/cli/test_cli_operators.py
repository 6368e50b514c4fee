"""The commands with which a person steps in, and those about dead letters."""

from __future__ import annotations

import getpass
import json

import pytest

from tests.support.orchestrator.stub_orchestrator import (
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    problem,
    saga,
)
from tests.support.processes.cli import sagabox, told_error


@pytest.mark.parametrize("verb", ["cancel", "terminate", "resolve", "pause", "resume"])
def test_a_signal_goes_with_its_reason_and_the_user_s_name(
    stub: StubOrchestrator, verb: str
) -> None:
    stub.on("POST", f"/sagas/{ID}/{verb}", Answer(saga(), 202))
    told = sagabox(verb, ID, "--reason", "because")
    assert told.code == 0
    assert told.out.startswith(f"{verb} of {ID} is taken in; it is RUNNING")
    assert stub.asked[0].body == {"reason": "because", "actor": getpass.getuser()}


def test_retry_names_the_step_and_the_actor_that_was_given(stub: StubOrchestrator) -> None:
    stub.on("POST", f"/sagas/{ID}/retry", Answer(saga(), 202))
    told = sagabox("retry", ID, "--step", "a b", "--reason", "r", "--actor", "ada", "--json")
    assert told.code == 0
    assert json.loads(told.out) == saga()
    assert stub.asked[0].body == {"reason": "r", "actor": "ada", "step": "a b"}


def test_skip_hands_on_a_result_also_if_it_is_null(stub: StubOrchestrator) -> None:
    stub.on("POST", f"/sagas/{ID}/skip", Answer(saga(), 202))
    asked = ("skip", ID, "--step", "s", "--reason", "r", "--actor", "a")
    for result in ((), ("--result", "null"), ("--result", '{"title": "t"}')):
        assert sagabox(*asked, *result).code == 0
    common = {"reason": "r", "actor": "a", "step": "s"}
    assert [it.body for it in stub.asked] == [
        common,
        common | {"result": None},
        common | {"result": {"title": "t"}},
    ]


def test_a_result_that_is_no_json_is_refused_before_anybody_is_asked(
    stub: StubOrchestrator,
) -> None:
    told = sagabox("skip", ID, "--step", "s", "--reason", "r", "--result", "nonsense")
    assert told.code == 2
    assert "the result cannot be used" in told.err
    assert stub.asked == []


@pytest.mark.parametrize("verb", ["cancel", "terminate", "resolve", "pause", "resume"])
def test_a_signal_without_a_reason_is_wrong_usage(stub: StubOrchestrator, verb: str) -> None:
    assert sagabox(verb, ID).code == 2
    assert stub.asked == []


def test_what_is_not_possible_now_leads_to_the_commands_that_are(stub: StubOrchestrator) -> None:
    stub.on(
        "POST",
        f"/sagas/{ID}/cancel",
        problem(409, "illegal-signal", "No.", allowed=["pause", "retry"]),
    )
    told = sagabox("cancel", ID, "--reason", "r", "--json")
    assert told.code == 2
    assert told_error(told)["next_step"] == (
        f"sagabox pause {ID} --reason REASON | sagabox retry {ID} --reason REASON"
    )


def test_an_ended_run_leads_to_its_history(stub: StubOrchestrator) -> None:
    stub.on("POST", f"/sagas/{ID}/cancel", problem(409, "illegal-signal", "No.", allowed=[]))
    told = sagabox("cancel", ID, "--reason", "r")
    assert told.code == 2
    assert f"sagabox show {ID} --history" in told.err


def test_a_signal_that_got_no_answer_says_how_to_find_out(stub: StubOrchestrator) -> None:
    stub.on("POST", f"/sagas/{ID}/cancel", Answer("{", breaks=True))
    told = sagabox("cancel", ID, "--reason", "r", "--json")
    assert told.code == 3
    assert f"sagabox show {ID} --history" in told_error(told)["next_step"]


def test_a_stuck_run_is_answered_with_what_repairs_it(stub: StubOrchestrator) -> None:
    stuck = saga("STUCK", allowed=["pause", "resolve", "retry", "skip", "terminate"])
    stub.on("POST", f"/sagas/{ID}/resume", Answer(stuck, 202))
    told = sagabox("resume", ID, "--reason", "r")
    assert f"sagabox retry {ID} --reason REASON" in told.out
    assert "sagabox pause" not in told.out


def test_an_id_cannot_lead_to_another_address(stub: StubOrchestrator) -> None:
    told = sagabox("cancel", "../definitions?x=#", "--reason", "r")
    assert told.code == 2
    assert stub.asked[0].path == "/sagas/..%2Fdefinitions%3Fx%3D%23/cancel"
    for command in ("show", "watch"):
        assert sagabox(command, "../definitions").code == 2
        assert stub.asked[-1].path == "/sagas/..%2Fdefinitions"


LETTER = {
    "id": OTHER,
    "destination": "articles",
    "type": "outbox.saga-ended.v1",
    "saga": None,
    "attempts": 9,
    "died_at": "2030-01-01T12:00:00Z",
    "reason": "it \x1b[2J failed",
}


@pytest.mark.parametrize("words", [("dead-letters",), ("dead-letters", "list")])
def test_dead_letters_are_listed(stub: StubOrchestrator, words: tuple[str, ...]) -> None:
    stub.on("GET", "/dead-letters", Answer({"items": [LETTER], "next_cursor": "c2"}))
    told = sagabox(*words, "--destination", "articles", "--limit", "3", "--cursor", "c1")
    assert told.code == 0
    assert OTHER in told.out
    assert "it \\x1b[2J failed" in told.out
    assert "--cursor c2" in told.out
    assert stub.asked[0].query == {"destination": ["articles"], "limit": ["3"], "cursor": ["c1"]}
    assert json.loads(sagabox(*words, "--json").out)["items"] == [LETTER]


def test_dead_letters_are_sent_again_by_their_ids(stub: StubOrchestrator) -> None:
    stub.on("POST", "/dead-letters/redrive", Answer({"redriven": 2}))
    assert sagabox("dead-letters", "redrive", ID, OTHER).out == "2 sent again\n"
    told = sagabox("dead-letters", "redrive", ID, "--destination", "articles", "--json")
    assert json.loads(told.out) == {"redriven": 2}
    assert [it.body for it in stub.asked] == [
        {"ids": [ID, OTHER]},
        {"ids": [ID], "destination": "articles"},
    ]


def test_dead_letters_are_sent_again_as_new_messages_and_their_ids_are_told(
    stub: StubOrchestrator,
) -> None:
    stub.on("POST", "/dead-letters/redrive", Answer({"redriven": 1, "new_ids": {ID: OTHER}}))
    told = sagabox("dead-letters", "redrive", ID, "--as-new")
    assert told.out == f"1 sent again\n{ID} is the new message {OTHER}\n"
    assert [it.body for it in stub.asked] == [{"ids": [ID], "as_new": True}]


def test_a_dead_letter_is_sent_again_by_the_beginning_of_its_id(stub: StubOrchestrator) -> None:
    stub.on("GET", "/dead-letters", Answer({"items": [LETTER, LETTER], "next_cursor": None}))
    stub.on("POST", "/dead-letters/redrive", Answer({"redriven": 1}))
    words = ("dead-letters", "redrive", OTHER[:13].upper(), "--destination", "articles")
    assert sagabox(*words).code == 0
    assert stub.asked[0].query["id_prefix"] == [OTHER[:13]]
    assert stub.asked[0].query["destination"] == ["articles"]
    assert stub.asked[-1].body == {"ids": [OTHER], "destination": "articles"}


def test_a_beginning_that_no_dead_letter_has_or_several_have_is_told(
    stub: StubOrchestrator,
) -> None:
    letters = [LETTER, LETTER | {"id": ID}]
    stub.on("GET", "/dead-letters", Answer({"items": letters, "next_cursor": None}))
    error = told_error(sagabox("dead-letters", "redrive", OTHER[:2], "--json"))
    assert error["happened"] == f"the ids of several dead letters begin with {OTHER[:2]}"
    assert error["why"] == f"{OTHER} (for articles), {ID} (for articles)"
    error = told_error(sagabox("dead-letters", "redrive", "ffff", "--json"))
    assert error["happened"] == "there is no dead letter whose id begins with ffff"
    assert {it.method for it in stub.asked} == {"GET"}


def test_a_saga_s_command_is_not_sent_again_and_the_orchestrator_says_what_to_do(
    stub: StubOrchestrator,
) -> None:
    stub.on(
        "POST",
        "/dead-letters/redrive",
        problem(409, "belongs-to-saga", "It is a command.", next_step=f"sagabox retry {ID}"),
    )
    told = sagabox("dead-letters", "redrive", ID, "--json")
    assert told.code == 2
    assert told_error(told)["next_step"] == f"sagabox retry {ID}"
