"""`sagabox start`, `list` and `show` against an orchestrator that answers as it is told."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.runs.showing import CALL_IN_DOUBT
from outbox.inbox.outside import rules
from tests.support.orchestrator.stub_orchestrator import (
    CREATED,
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    entry,
    problem,
    saga,
    stream,
    summary,
)
from tests.support.processes.cli import sagabox, told_error
from tests.support.processes.waiting import free_port

_PENDING = {
    "since": CREATED,
    "note": "",
    "expected_at": None,
    "is_late": False,
    "attempt": None,
    "holder": None,
    "until": None,
}


def test_start_sends_the_input_as_it_was_written_and_the_idempotency_key(
    stub: StubOrchestrator,
) -> None:
    stub.on("POST", "/sagas/delete-article", Answer(saga(), 202))
    told = sagabox("start", "delete-article", '{"article_id": "a1"}', "--idempotency-key", "k1")
    assert told.code == 0
    assert ID in told.out
    assert f"sagabox watch {ID}" in told.out
    (asked,) = stub.asked
    assert asked.body == {"article_id": "a1"}
    assert asked.headers["idempotency-key"] == "k1"
    assert asked.headers["content-type"] == "application/json"
    assert "prefer" not in asked.headers


def test_start_reads_the_input_from_a_file_or_from_stdin(
    stub: StubOrchestrator, tmp_path: Path
) -> None:
    stub.on("POST", "/sagas/x", Answer(saga(), 202))
    (tmp_path / "input").write_text('{"from": "file"}')
    assert sagabox("start", "x", "--input", str(tmp_path / "input")).code == 0
    assert sagabox("start", "x", "--input", "-", stdin='{"from": "stdin"}').code == 0
    assert sagabox("start", "x").code == 0
    assert [it.body for it in stub.asked] == [{"from": "file"}, {"from": "stdin"}, {}]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["{'a': 1}"], "it is not valid JSON"),
        (["[1]"], "it is JSON, but not an object"),
        (["{}", "--input", "-"], "it was given twice"),
        (["--input", "no-such-file"], "No such file"),
    ],
    ids=["no JSON", "no object", "twice", "no file"],
)
def test_a_bad_input_is_refused_before_anybody_is_asked(
    stub: StubOrchestrator, arguments: list[str], why: str
) -> None:
    told = sagabox("start", "x", *arguments, "--json")
    assert told.code == 2
    assert why in told_error(told)["why"]
    assert stub.asked == []


def test_start_does_not_wait_on_for_a_run_that_is_stuck(stub: StubOrchestrator) -> None:
    stub.on("POST", "/sagas/x", Answer(saga("STUCK"), 202))
    assert sagabox("start", "x", "--wait", "1000").code == 5
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("status", "code"), [("COMPLETED", 0), ("COMPENSATED", 1), ("STUCK", 5), ("RUNNING", 6)]
)
def test_start_with_wait_tells_by_its_exit_code_how_the_saga_ended(
    stub: StubOrchestrator, status: str, code: int
) -> None:
    stub.on("POST", "/sagas/x", Answer(saga(status), 200))
    stub.on("GET", f"/sagas/{ID}", Answer(saga(status)))
    told = sagabox("start", "x", "--wait", "0.01", "--json")
    assert told.code == code
    assert json.loads(told.out)["status"] == status


def test_start_with_wait_tells_why_the_saga_turned_back(stub: StubOrchestrator) -> None:
    ended = saga("COMPENSATED", cause={"code": "sold-out", "reason": "only 0 of lamp"})
    stub.on("POST", "/sagas/x", Answer(ended, 200))
    told = sagabox("start", "x", "--wait", "1")
    assert told.out.endswith(": COMPENSATED, because sold-out: only 0 of lamp\n")


def test_start_for_later_tells_the_time_in_utc_and_show_prints_it(stub: StubOrchestrator) -> None:
    waiting = saga("SCHEDULED", begin_at="2030-02-01T12:00:00Z")
    stub.on("POST", "/sagas/x", Answer(waiting, 202))
    told = sagabox("start", "x", "--begin-at", "2030-02-01T14:00:00+02:00")
    assert (told.code, "SCHEDULED" in told.out) == (0, True)
    assert stub.asked[0].query == {"begin_at": ["2030-02-01T12:00:00Z"]}
    stub.on("GET", f"/sagas/{ID}", Answer(waiting))
    assert "begins   2030-02-01T12:00:00Z" in sagabox("show", ID).out


def test_a_time_to_begin_that_is_none_is_refused_before_anybody_is_asked(
    stub: StubOrchestrator,
) -> None:
    told = sagabox("start", "x", "--begin-at", "tomorrow", "--json")
    assert (told.code, "RFC 3339" in told_error(told)["why"]) == (2, True)
    assert stub.asked == []


def test_start_with_wait_asks_the_orchestrator_to_wait_and_then_looks_again(
    stub: StubOrchestrator,
) -> None:
    stub.on("POST", "/sagas/x", Answer(saga(), 202))
    stub.on("GET", f"/sagas/{ID}", Answer(saga("COMPLETED")))
    assert sagabox("start", "x", "--wait", "40").code == 0
    assert stub.asked[0].headers["prefer"] == "wait=30"
    assert [it.path for it in stub.asked] == ["/sagas/x", f"/sagas/{ID}"]


def test_an_unknown_saga_names_those_that_there_are(stub: StubOrchestrator) -> None:
    stub.on("POST", "/sagas/x", problem(404, "unknown-saga", "There is no saga x."))
    stub.on("GET", "/definitions", Answer({"items": [{"name": "b"}, {"name": "a"}, {"name": "a"}]}))
    told = sagabox("start", "x", "--json")
    assert told.code == 2
    assert told_error(told)["next_step"] == "sagabox start a | sagabox start b"


def test_a_saga_that_is_active_already_is_named_by_the_command_that_watches_it(
    stub: StubOrchestrator,
) -> None:
    refused = problem(409, "saga-active", "It is active.")
    stub.on(
        "POST",
        "/sagas/x",
        Answer(refused.body, 409, {**refused.headers, "location": f"/sagas/{OTHER}"}),
    )
    told = sagabox("start", "x")
    assert told.code == 2
    assert told.err.splitlines() == [
        "error: Saga active",
        "  why:  It is active.",
        f"  next: sagabox watch {OTHER}",
    ]


def test_an_orchestrator_that_is_not_there_is_told_with_exit_code_3() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = sagabox("list", "--url", url, "--json")
    assert told.code == 3
    error = told_error(told)
    assert error["happened"] == f"the orchestrator at {url} cannot be reached"
    assert "sagabox serve orchestrator" in error["next_step"]


def test_a_start_that_got_no_answer_says_how_to_find_out_whether_it_began(
    stub: StubOrchestrator,
) -> None:
    stub.on("POST", "/sagas/x", Answer("{", breaks=True))
    told = sagabox("start", "x", "--json")
    assert told.code == 3
    assert "sagabox list --name x" in told_error(told)["next_step"]


def test_an_orchestrator_that_cannot_do_it_now_is_told_with_exit_code_3(
    stub: StubOrchestrator,
) -> None:
    stub.on("POST", "/sagas/x", problem(503, "unavailable", "Not now.", next_step="Ask again."))
    told = sagabox("start", "x", "--json")
    assert told.code == 3
    assert (told_error(told)["code"], told_error(told)["next_step"]) == (
        "unavailable",
        "Ask again.",
    )


@pytest.mark.parametrize("code", ["credentials-missing", "credentials-wrong"])
def test_without_a_token_that_works_it_is_told_how_to_get_one(
    stub: StubOrchestrator, code: str
) -> None:
    advice = "On its machine: SAGABOX_TABLE_PREFIX=shop_ sagabox token create NAME --role admin."
    stub.on("GET", "/sagas", problem(401, code, "It shows no key.", next_step=advice))
    told = sagabox("list")
    assert told.code == 2
    next_step = f"next: {advice} In this terminal: export SAGABOX_TOKEN=TOKEN"
    assert next_step in " ".join(told.err.split())


def test_what_is_no_orchestrator_is_told(stub: StubOrchestrator) -> None:
    stub.on("GET", "/sagas", Answer("<html>welcome</html>"))
    told = sagabox("list")
    assert told.code == 3
    assert "another program listens there" in told.err
    assert f"within a service: --url {stub.url}/orchestrator\n" in told.err
    stub.on("GET", "/shop/sagas", Answer("<html>welcome</html>"))
    assert "within a service" not in sagabox("list", "--url", f"{stub.url}/shop").err


@pytest.mark.parametrize("url", ["ftp://here", "nonsense", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    told = sagabox("list", "--url", url)
    assert told.code == 2
    assert "is no address of an orchestrator" in told.err


def test_list_hands_on_every_filter(stub: StubOrchestrator) -> None:
    stub.on("GET", "/sagas", Answer({"items": [summary()], "next_cursor": "next-one"}))
    told = sagabox(
        *("list", "--status", "stuck", "--status", "RUNNING", "--name", "n", "--key", "k"),
        *("--older-than", "10m", "--limit", "7", "--cursor", "c"),
    )
    assert told.code == 0, told
    assert stub.asked[0].query == {
        "status": ["STUCK", "RUNNING"],
        "name": ["n"],
        "key": ["k"],
        "older_than": ["600"],
        "limit": ["7"],
        "cursor": ["c"],
    }
    assert ID in told.out
    assert "--cursor next-one" in told.out


def test_list_as_json_is_the_page_as_it_came(stub: StubOrchestrator) -> None:
    page = {"items": [summary("STUCK")], "next_cursor": None}
    stub.on("GET", "/sagas", Answer(page))
    assert json.loads(sagabox("list", "--json").out) == page
    assert stub.asked[0].query == {"limit": ["50"]}


@pytest.mark.parametrize("age", ["", "ten", "1.5h", "-5s", "10w"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    told = sagabox("list", "--older-than", age)
    assert told.code == 2
    assert "sagabox list --older-than 10m" in told.err


def test_show_tells_the_state_the_steps_and_what_is_possible(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(saga()))
    told = sagabox("show", ID)
    assert told.code == 0
    for expected in (
        ID,
        '{"article_id":"a1"}',
        "hide article",
        "articles.hide-article.v1 (answer, sent 2 times)",
        f"sagabox cancel {ID} --reason REASON",
    ):
        assert expected in told.out


@pytest.mark.parametrize(
    "step",
    [
        {"status": "STUCK", "reason": f"unknown: {CALL_IN_DOUBT} (Timeout)"},
        {"status": "WAITING", "awaited": {"pending": {"note": ""}}},
    ],
    ids=["a call in doubt", "pending"],
)
def test_what_its_participant_has_not_answered_is_to_be_answered_there_first(
    stub: StubOrchestrator, step: dict[str, Any]
) -> None:
    (usual,) = saga()["steps"]
    awaited = usual["awaited"] | step.get("awaited", {})
    if awaited["pending"]:
        awaited["pending"] = _PENDING
    run = saga("STUCK", allowed=["retry"], steps=[usual | step | {"awaited": awaited}])
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    first = sagabox("show", ID).out.partition("possible now:\n")[2].splitlines()[0]
    asked = f"sagabox pending complete MODULE:articles {OTHER}"
    assert first == f"  {asked} --value JSON --reason REASON"


def test_the_words_for_a_call_in_doubt_are_those_of_participants() -> None:
    assert CALL_IN_DOUBT in inspect.getsource(rules)


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        ("locked", "locked: saga 7", "locked: saga 7"),
        ("unknown", "unknown: dropped: bankrupt", "unknown: dropped: bankrupt"),
        ("legal-hold", "a lawsuit", "legal-hold: a lawsuit"),
        ("legal-hold", "refused", "legal-hold: refused"),
        ("refused", "refused", "refused"),
    ],
)
def test_a_cause_is_told_without_a_doubled_word(
    stub: StubOrchestrator, code: str, reason: str, told: str
) -> None:
    run = saga("COMPENSATED", cause={"code": code, "reason": reason})
    stub.on("GET", f"/sagas/{ID}", Answer(run))
    assert f"because  {told}\n" in sagabox("show", ID).out


def test_show_says_when_the_id_stands_for_a_run_that_was_active_already(
    stub: StubOrchestrator,
) -> None:
    stub.on("GET", f"/sagas/{OTHER}", Answer(saga()))
    assert f"{OTHER} began no run of its own" in sagabox("show", OTHER).out


def test_the_history_is_read_to_its_last_page(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(saga()))
    stub.on(
        "GET",
        f"/sagas/{ID}/history",
        Answer({"items": [entry(1), entry(2)], "next_cursor": "2"}),
        Answer({"items": [entry(3)], "next_cursor": None}),
    )
    told = sagabox("show", ID, "--history", "--json")
    assert [it["number"] for it in json.loads(told.out)["history"]] == [1, 2, 3]
    assert [it.query.get("after") for it in stub.asked[1:]] == [None, ["2"]]


@pytest.mark.parametrize(
    ("place", "file", "where"),
    [
        (None, None, "for good"),
        ("s3://b", "histories/2030/01/31/x", "to histories/2030/01/31/x in"),
    ],
    ids=["for good", "archived"],
)
def test_a_history_that_was_removed_is_not_shown_as_an_empty_one(
    stub: StubOrchestrator, place: str | None, file: str | None, where: str
) -> None:
    removed = {"at": "2030-01-31T12:00:00Z", "place": place, "file": file}
    stub.on("GET", f"/sagas/{ID}", Answer(saga("COMPLETED", history_removed=removed)))
    empty = Answer({"items": [], "next_cursor": None, "removed": removed})
    stub.on("GET", f"/sagas/{ID}/history", empty)
    told = " ".join(sagabox("show", ID, "--history").out.split())
    assert "history removed by retention 2030-01-31T12:00:00Z" in told
    assert where in told
    assert json.loads(sagabox("show", ID, "--json").out)["history_removed"] == removed
    stub.on("GET", f"/sagas/{ID}/events", stream())
    told = " ".join(sagabox("watch", ID).out.split())
    assert "its history was removed by retention 2030-01-31T12:00:00Z" in told
    assert f"{ID} ended COMPLETED" in told


def test_an_unknown_run_leads_to_the_list(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", problem(404, "unknown-run", "There is no such saga."))
    told = sagabox("show", ID, "--json")
    assert told.code == 2
    assert told_error(told)["next_step"].startswith("sagabox list")


def test_texts_from_elsewhere_cannot_write_into_the_terminal(stub: StubOrchestrator) -> None:
    nasty = "\x1b[2J\x07\u202egone\u2028\x9b"
    steps = [saga()["steps"][0] | {"reason": nasty}]
    stub.on("GET", f"/sagas/{ID}", Answer(saga(key=nasty, steps=steps, state={"it": nasty})))
    stub.on(
        "GET",
        f"/sagas/{ID}/history",
        Answer({"items": [entry(1, detail=nasty, actor=nasty)], "next_cursor": None}),
    )
    told = sagabox("show", ID, "--history")
    stub.on("GET", f"/sagas/{ID}", problem(404, "unknown-run", nasty, next_step=nasty))
    refused = sagabox("show", ID)
    for text in (told.out, refused.err):
        assert "gone" in text
        assert not set(nasty) - set("gone[2J") & set(text)
        assert "\\x1b" in text


def test_markup_in_texts_is_shown_as_it_is(stub: StubOrchestrator) -> None:
    stub.on("GET", "/sagas", Answer({"items": [summary(key="[red]k[/red]")], "next_cursor": None}))
    assert "[red]k[/red]" in sagabox("list").out


@pytest.mark.parametrize("arguments", [["list", "--no-such"], ["show"], ["list", "--limit", "0"]])
def test_wrong_usage_is_told_in_json_to_a_caller_that_wants_json(arguments: list[str]) -> None:
    told = sagabox(*arguments, "--json")
    assert told.code == 2
    assert told_error(told)["happened"] == "wrong usage"
    assert told_error(told)["next_step"] == f"sagabox {arguments[0]} --help"


@pytest.mark.parametrize(
    "command",
    [
        *("start", "list", "show", "watch", "cancel", "terminate", "resolve", "pause", "resume"),
        *("retry", "skip", "dead-letters", "audit"),
    ],
)
def test_the_help_of_each_command_says_what_its_exit_codes_mean(command: str) -> None:
    told = sagabox(command, "--help")
    assert told.code == 0
    assert (
        "3 the orchestrator, a database, or the participant that conform tries, cannot be reached"
        in " ".join(told.out.split())
    )
