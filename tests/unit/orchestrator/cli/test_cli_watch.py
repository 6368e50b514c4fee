"""`sagabox watch`: a stream that breaks is taken up again, and nothing is told twice or lost."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from importlib import import_module

import httpx
import pytest

from orchestrator.cli.runs.history import Entry
from orchestrator.cli.runs.watch import ATTEMPTS, LONGEST_PAUSE, follow
from orchestrator.cli.terminal.alarm import TimeUp
from orchestrator.cli.terminal.client import Api
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.sse import Event, events
from tests.support.orchestrator.stub_orchestrator import (
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    entry,
    problem,
    saga,
    stream,
    stub_orchestrator,
)
from tests.support.processes.cli import sagabox, told_error


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubOrchestrator]:
    monkeypatch.setattr(import_module("orchestrator.cli.runs.watch"), "FIRST_PAUSE", 0.0)
    with stub_orchestrator() as running:
        monkeypatch.setenv("SAGABOX_URL_ORCHESTRATOR", running.url)
        running.on("GET", f"/sagas/{ID}", Answer(saga("COMPLETED")))
        yield running


EVENTS = f"/sagas/{ID}/events"


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("COMPENSATED", 1)])
def test_watch_tells_the_history_and_how_the_run_ended(
    stub: StubOrchestrator, status: str, code: int
) -> None:
    stub.on("GET", EVENTS, stream(entry(1, "started"), entry(2, "ended", detail=status)))
    stub.on("GET", f"/sagas/{ID}", Answer(saga(status)))
    told = sagabox("watch", ID)
    assert told.code == code
    first, second, last = told.out.splitlines()
    assert "started" in first
    assert f"ended: {status}" in second
    assert last == f"{ID} ended {status}"


def test_watch_as_json_is_one_document_at_the_end(stub: StubOrchestrator) -> None:
    stub.on("GET", EVENTS, stream(entry(1, "started"), entry(2, "ended")))
    told = json.loads(sagabox("watch", ID, "--json").out)
    assert told["saga"]["status"] == "COMPLETED"
    assert [it["number"] for it in told["events"]] == [1, 2]


@pytest.mark.parametrize("breaks", [True, False], ids=["it broke", "it was closed"])
def test_a_stream_that_ends_too_early_is_taken_up_behind_the_last_event(
    stub: StubOrchestrator, breaks: bool
) -> None:
    stub.on(
        "GET",
        EVENTS,
        stream(entry(1, "started"), entry(2), breaks=breaks),
        stream(entry(2), entry(3, "ended")),  # the one that it has seen is told once all the same
    )
    told = json.loads(sagabox("watch", ID, "--json").out)
    assert [it["number"] for it in told["events"]] == [1, 2, 3]
    streams = [it for it in stub.asked if it.path == EVENTS]
    assert [it.headers.get("last-event-id") for it in streams] == [None, "2"]


def test_the_end_is_not_believed_before_its_entry_has_come(stub: StubOrchestrator) -> None:
    """The run may end between the end of a stream and the question how it stands."""
    stub.on("GET", EVENTS, stream(entry(1)), stream(entry(2, "ended")))
    told = json.loads(sagabox("watch", ID, "--json").out)
    assert [it["number"] for it in told["events"]] == [1, 2]


def test_a_run_that_brings_no_entry_any_more_is_over_when_it_has_ended(
    stub: StubOrchestrator,
) -> None:
    """What has been forgotten of a long history cannot be waited for."""
    stub.on("GET", EVENTS, stream(entry(1)), stream())
    assert sagabox("watch", ID).code == 0


def test_an_alias_is_watched_as_the_run_that_it_stands_for(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{OTHER}", Answer(saga("COMPLETED")))
    stub.on("GET", EVENTS, stream(entry(1, "ended")))
    assert sagabox("watch", OTHER).code == 0


def test_a_run_that_is_not_there_is_not_asked_for_again(stub: StubOrchestrator) -> None:
    stub.on("GET", f"/sagas/{ID}", problem(404, "unknown-run", "There is no such saga."))
    told = sagabox("watch", ID, "--json")
    assert told.code == 2
    assert told_error(told)["code"] == "unknown-run"
    assert len(stub.asked) == 1


def test_a_stream_that_is_refused_is_not_asked_for_again(stub: StubOrchestrator) -> None:
    stub.on("GET", EVENTS, problem(410, "start-refused", "It never began."))
    assert sagabox("watch", ID).code == 2
    assert len([it for it in stub.asked if it.path == EVENTS]) == 1


def test_watching_is_given_up_after_so_many_attempts_in_a_row(stub: StubOrchestrator) -> None:
    stub.on("GET", EVENTS, problem(503, "too-many-streams", "There are too many."))
    told = sagabox("watch", ID, "--json")
    assert told.code == 3
    assert "There are too many." in told_error(told)["why"]
    assert len([it for it in stub.asked if it.path == EVENTS]) == ATTEMPTS


class _Orchestrator(httpx.SyncByteStream):
    """Sends `streams`, one a connection, at a clock of its own; then it is away. Its run goes on
    for ever. Each line of a stream comes `silence` seconds after the one before."""

    def __init__(self, *streams: Answer, silence: float = 0.0) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._silence = silence
        self.waiting = [str(it.body) for it in streams]

    def follow(self) -> Iterator[Entry]:
        """Watch the run."""
        url = "http://127.0.0.1:1"
        transport = httpx.MockTransport(self._answer)
        api = Api(url, httpx.Client(base_url=url, transport=transport))
        return follow(api, ID, self._pause, lambda: self.now)

    def __iter__(self) -> Iterator[bytes]:
        for line in self.waiting.pop(0).splitlines(keepends=True):
            self.now += self._silence
            yield line.encode()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=saga())
        if not self.waiting:
            self.now += 60  # as if it hung
            raise httpx.ReadTimeout("no server answers", request=request)
        return httpx.Response(200, stream=self)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_the_pauses_grow_and_have_a_bound() -> None:
    away = _Orchestrator()
    with pytest.raises(CommandError, match="8 times in a row") as raised:
        list(away.follow())
    assert raised.value.exit_code is ExitCode.UNREACHABLE
    assert away.pauses == [0.25, 0.5, 1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_an_event_makes_the_count_of_attempts_begin_anew() -> None:
    there = _Orchestrator(stream(), stream(), stream(entry(1)), stream())
    told = []
    with pytest.raises(CommandError):
        for it in there.follow():
            told.append(it["number"])
    assert told == [1]
    assert there.pauses[:4] == [0.25, 0.5, 0.25, 0.5]


@pytest.mark.parametrize(("silence", "left"), [(10.0, 0), (1.0, 12)], ids=["long", "short"])
def test_a_connection_that_lasted_is_no_failed_attempt_though_nothing_happened(
    silence: float, left: int
) -> None:
    there = _Orchestrator(*[stream()] * 20, silence=silence)
    with pytest.raises(CommandError):
        list(there.follow())
    assert len(there.waiting) == left
    assert len(there.pauses) == ATTEMPTS - 1


def test_events_are_read_as_the_standard_says() -> None:
    lines = [
        *(": a comment", "id: 1", "event: sent", "data: one", "data:two", ""),
        *("id", "data: no id any more", "", "event: dropped", "", "unknown: x", "data: a: b", ""),
        *("id: 9", "data: cut off"),
    ]
    assert list(events(lines)) == [
        Event("1", "sent", "one\ntwo"),
        Event("", "message", "no id any more"),
        Event("", "message", "a: b"),
    ]


# --- A run that is STUCK, and a time that is up ---------------------------------------------------

(_STEP,) = saga()["steps"]
STUCK = saga(
    "STUCK",
    allowed=["pause", "retry", "terminate"],
    steps=[_STEP | {"status": "STUCK", "reason": "the printer burns"}],
)


def history_of(stub: StubOrchestrator, *entries: Entry) -> None:
    page = {"items": list(entries), "next_cursor": None}
    stub.on("GET", f"/sagas/{ID}/history", Answer(page))


def test_watch_ends_when_the_run_gets_stuck_with_the_reason_and_what_repairs_it(
    stub: StubOrchestrator,
) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(saga()), Answer(saga()), Answer(STUCK))
    stub.on("GET", EVENTS, stream(entry(1), entry(2, "stuck"), entry(3, "never told")))
    history_of(stub, entry(3, "buried", detail="another step"))
    told = sagabox("watch", ID)
    assert told.code == ExitCode.STUCK
    assert [it.partition("  ")[2] for it in told.out.splitlines()[:3]] == [
        "sent",
        "stuck",
        "buried: another step",
    ]
    assert told.out.splitlines()[3:] == [
        f"{ID} is STUCK: a person is needed",
        "  hide article: the printer burns",
        f"  sagabox show {ID}",
        f"  sagabox retry {ID} --reason REASON",
        f"  sagabox terminate {ID} --reason REASON",
    ]
    (asked,) = [it for it in stub.asked if it.path.endswith("/history")]
    assert asked.query["after"] == ["2"]


def test_a_run_that_was_stuck_before_is_told_from_its_beginning_at_once(
    stub: StubOrchestrator,
) -> None:
    """No entry needs to come: the stream's first sign of life is enough."""
    stub.on("GET", f"/sagas/{ID}", Answer(STUCK))
    stub.on("GET", EVENTS, stream())
    history_of(stub, entry(1, "started"), entry(2, "stuck"))
    told = sagabox("watch", ID, "--json")
    assert told.code == 5
    assert [it["number"] for it in json.loads(told.out)["events"]] == [1, 2]
    assert json.loads(told.out)["saga"] == STUCK


def test_a_run_that_was_stuck_and_repaired_is_watched_to_its_end(stub: StubOrchestrator) -> None:
    """Its history says STUCK, and it is not so any more."""
    stub.on("GET", f"/sagas/{ID}", *map(Answer, [saga()] * 3), Answer(saga("COMPLETED")))
    stub.on("GET", EVENTS, stream(entry(1, "stuck"), entry(2, "operator"), entry(3, "ended")))
    told = sagabox("watch", ID)
    assert (told.code, told.out.splitlines()[-1]) == (0, f"{ID} ended COMPLETED")


def test_a_history_that_breaks_off_behind_stuck_is_read_again_and_told_once(
    stub: StubOrchestrator,
) -> None:
    stub.on("GET", f"/sagas/{ID}", Answer(STUCK))
    stub.on("GET", EVENTS, stream())
    whole = {"items": [entry(1), entry(2, "stuck")], "next_cursor": "2"}
    stub.on(
        *("GET", f"/sagas/{ID}/history"),
        Answer(whole),
        Answer("{", breaks=True),
        Answer({"items": [entry(3)], "next_cursor": None}),
    )
    told = sagabox("watch", ID, "--json")
    assert [it["number"] for it in json.loads(told.out)["events"]] == [1, 2, 3]
    asked = [it.query.get("after") for it in stub.asked if it.path.endswith("/history")]
    assert asked == [None, ["2"], ["2"]]


def test_an_orchestrator_that_gives_no_answer_ends_the_watching_after_its_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = sagabox("watch", ID, "--timeout", "0.05", "--url", url)
    assert told.code == ExitCode.TIME_UP
    assert told.out.endswith(f"after 0.05 s; next: sagabox watch {ID}\n")


def test_a_run_that_goes_on_after_the_timeout_is_told_as_it_stands(
    stub: StubOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(*_: object, **__: object) -> Iterator[Entry]:
        yield entry(1, "started")
        raise TimeUp

    monkeypatch.setattr(import_module("orchestrator.cli.runs.watch"), "follow", follow)
    stub.on("GET", f"/sagas/{ID}", Answer(saga()))
    told = sagabox("watch", ID, "--timeout", "1000")
    assert (told.code, f"{ID} is RUNNING after 1000 s" in told.out) == (6, True)
    told = sagabox("watch", ID, "--timeout", "1000", "--json")
    assert (told.code, json.loads(told.out)["saga"]) == (6, saga())


def test_the_undo_of_a_step_is_told_from_its_action(stub: StubOrchestrator) -> None:
    action, undo = "articles.hide-article.v1", "articles.unhide-article.v1"
    lines = [
        entry(1, "sent", step="hide article", command_id="c1", detail=action),
        entry(2, "answered", step="hide article", command_id="c1", detail="done"),
        entry(3, "sent", step="hide article", command_id="c2", detail=undo),
        entry(4, "answered", step="hide article", command_id="c2", detail="done"),
        entry(5, "answered", step="hide article", command_id=None, detail="done"),
    ]
    wanted = [
        f"sent [hide article]: {action}",
        "answered [hide article]: done",
        f"sent [undo of hide article]: {undo}",
        "answered [undo of hide article]: done",
        "answered [hide article]: done",
    ]
    history_of(stub, *lines)
    shown = sagabox("show", ID, "--history").out.splitlines()[-5:]
    assert [it.partition("  ")[2] for it in shown] == wanted
    stub.on("GET", EVENTS, stream(*lines, entry(6, "ended")))
    assert [it.partition("  ")[2] for it in sagabox("watch", ID).out.splitlines()[:5]] == wanted
