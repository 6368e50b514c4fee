"""`sagabox watch`: a stream that breaks is taken up again, and nothing is told twice or lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module

import httpx
import pytest

from orchestrator.cli.runs.watch import ATTEMPTS, LONGEST_PAUSE, Entry, follow
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
            raise httpx.ReadTimeout("nobody answers", request=request)
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
