"""`sagabox conform`: what it is given wrongly, what is no participant, and what it tells."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.cells import cell_len

from orchestrator.cli.terminal import output
from orchestrator.cli.tools.conform_trials import restart_by
from orchestrator.testing.conforming.running import TRIALS
from outbox.clock import SystemClock
from outbox.ids import Ids
from outbox.replies import Outcome, Reply
from outbox.wire.envelope import BATCH, Envelope, from_batch, replies_to_batch
from tests.support.outbox.services import SECRETS
from tests.support.processes.cli import sagabox, told_error
from tests.support.processes.waiting import free_port

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[bytes], Answer]

_CLOCK = SystemClock()
_READ = {"balance": 0, "commands": []}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGABOX_SECRETS", SECRETS)


@contextmanager
def answering(script: Script) -> Iterator[str]:
    """The address of a server that answers each POST by the script, which gets the body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, headers, answer = script(body)
            self.send_response(status)
            for name, value in {"content-length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Prints nothing: a client may close the connection before the end of an answer."""

    server = Server(("127.0.0.1", free_port()), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def always(status: int, body: bytes = b"", **headers: str) -> Script:
    return lambda _: (status, {name.replace("_", "-"): it for name, it in headers.items()}, body)


def replying(reply_to: Callable[[Envelope], Reply]) -> Script:
    """A participant that takes everything, and answers each event so."""

    def script(body: bytes) -> Answer:
        events = from_batch(body)
        replies = [reply_to(it) for it in events]
        ids = Ids(_CLOCK, bytes)
        answer = replies_to_batch("conform", events, replies, ids, _CLOCK.now())
        return 200, {"content-type": BATCH}, answer

    return script


def _forgetful(event: Envelope) -> Reply:
    """It says done, and has nothing."""
    is_read = event.type == "conform.read.v1"
    return Reply(Outcome.DONE, value=_READ if is_read else {"balance": 1})


# What it is given


@pytest.mark.parametrize(
    ("arguments", "happened"),
    [
        ([], "what is to be tried?"),
        (["http://127.0.0.1:1", "--module", "a:b"], "what is to be tried?"),
        (["--module", "a:b", "--restart", "true"], "--restart has no use here"),
        (["http://127.0.0.1:1", "--only", "unheard-of"], "there is no trial 'unheard-of'"),
        (["ftp://127.0.0.1:1"], "'ftp://127.0.0.1:1' is not an address to send to"),
    ],
)
def test_wrong_arguments_are_told_with_what_to_do(arguments: list[str], happened: str) -> None:
    error = told_error(sagabox("conform", *arguments, "--json"))
    assert error["happened"].startswith(happened)
    assert error["next_step"]
    assert error["exit_code"] == 2


@pytest.mark.parametrize(
    ("value", "happened"),
    [(None, "SAGABOX_SECRETS is not set"), ("one:c2hvcnQ=", "SAGABOX_SECRETS is wrong")],
)
def test_it_needs_the_secrets_of_the_participant(value: str | None, happened: str) -> None:
    told = sagabox("conform", "http://127.0.0.1:1", "--json", SAGABOX_SECRETS=value)
    assert told_error(told)["happened"] == happened


def test_it_lists_the_trials() -> None:
    told = sagabox("conform", "--list")
    assert [it.split()[0] for it in told.out.splitlines()] == [it.name for it in TRIALS]
    listed = json.loads(sagabox("conform", "--list", "--json").out)
    assert [it["see"] for it in listed] == [it.section for it in TRIALS]


# What answers


def test_an_address_that_gives_no_answer_is_told_as_such() -> None:
    error = told_error(sagabox("conform", f"http://127.0.0.1:{free_port()}", "--json"))
    assert "gives no answer" in error["happened"]
    assert "cannot be reached" in error["why"]
    assert error["exit_code"] == 3


def test_a_participant_that_is_slow_is_told_as_such() -> None:
    hangs = threading.Event()

    def script(_: bytes) -> Answer:
        hangs.wait(30)
        return 200, {}, b""

    with answering(script) as url:
        told = sagabox("conform", url, "--timeout", "0.2", "--json")
        hangs.set()
    assert "did not answer within 0.2 s" in told_error(told)["why"]


@pytest.mark.parametrize(
    ("script", "why", "next_step"),
    [
        (always(404), "404", "has POST /messages"),
        (always(405), "405", "take POST"),
        (always(401, b'{"code":"untrusted-request"}'), "401 untrusted-request", "SAGABOX_SECRETS"),
        (
            always(307, location="http://127.0.0.1:1/away"),
            "307, a redirect to http://127.0.0.1:1/away",
            "follows no redirect",
        ),
        (always(500), "500", "Replies"),
        (always(200, b"<html>", content_type="text/html"), "text/html", "Replies"),
        (always(200, b"{}", content_type=BATCH), "the body is none", "Replies"),
        (always(200, b"[]", content_type=BATCH), "1 of 1 messages got no reply", "Replies"),
        (always(200, b'[{"id":1}]', content_type=BATCH), "'data' of event 0", "Replies"),
        (always(200, b"[" * 100_000, content_type=BATCH), "is no CloudEvent", "Replies"),
    ],
    ids=["404", "405", "401", "307", "500", "html", "no list", "empty", "no event", "deep"],
)
def test_what_answers_as_no_participant_does_is_told_as_such(
    script: Script, why: str, next_step: str
) -> None:
    with answering(script) as url:
        error = told_error(sagabox("conform", url, "--json"))
    assert "does not answer as a participant does" in error["happened"]
    assert why in error["why"]
    assert next_step in error["next_step"]
    assert error["exit_code"] == 2


def test_an_answer_of_100_mb_is_not_read() -> None:
    with answering(always(200, b"x" * 100_000_000, content_type=BATCH)) as url:
        error = told_error(sagabox("conform", url, "--json", "--timeout", "30"))
    assert "answered with more than 8388608 bytes" in error["why"]
    assert "The answer to a request" in error["next_step"]


def test_a_participant_without_the_trial_commands_is_told_which_one_is_missing() -> None:
    unknown = Reply(Outcome.REJECTED, code="unknown-type", reason="there is no such handler")
    with answering(replying(lambda _: unknown)) as url:
        error = told_error(sagabox("conform", url, "--json"))
    assert "does not take the trial commands" in error["happened"]
    assert "rejected/unknown-type (there is no such handler)" in error["why"]
    assert "The trial commands" in error["next_step"]


# What it tells


def test_a_failed_trial_says_what_was_sent_and_came_and_is_expected_and_where() -> None:
    with answering(replying(_forgetful)) as url:
        told = sagabox("conform", url, "--only", "undo-before-action", "--only", "duplicate")
        told_json = sagabox("conform", url, "--only", "undo-before-action", "--json")
    assert told.code == told_json.code == 1
    lines = told.out.splitlines()
    assert lines[0].startswith("failed   duplicate ")
    assert lines[-1] == "2 failed"
    document = json.loads(told_json.out)
    (trial,) = document["trials"]
    assert trial["sent"] == ["[undo of add 1] -> done"]
    assert trial["came"] == 'undo of add 1: done with the value {"balance":1}'
    assert trial["expected"] == "undo of add 1: nothing-to-undo"
    assert trial["see"] == "docs/reference/wire.md, Undo"
    assert document["failed"] == ["undo-before-action"]


def test_all_trials_go_on_with_a_participant_that_does_nothing_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "width", lambda: 80)
    with answering(replying(_forgetful)) as url:
        told = sagabox("conform", url)
    assert told.code == 1
    assert max(map(cell_len, told.out.splitlines())) <= 80
    assert told.out.count("\nfailed ") + told.out.startswith("failed ") > 40
    assert "there is no --restart command, and no person to ask" in told.out


def test_values_that_are_hostile_are_made_safe_before_they_are_shown() -> None:
    def script(event: Envelope) -> Reply:
        if event.type == "conform.read.v1":
            return Reply(Outcome.DONE, value=_READ)
        return Reply(Outcome.FAILED, code="\x1b[31m", reason="\x1b]0;title\x07" + "x" * 2000)

    with answering(replying(script)) as url:
        told = sagabox("conform", url, "--only", "takes-a-batch")
    assert "\x1b" not in told.out
    assert "\x07" not in told.out
    assert "failed" in told.out


def test_once_the_participant_is_gone_the_rest_is_skipped() -> None:
    served = 0

    def script(body: bytes) -> Answer:
        nonlocal served
        served += 1
        if served > 1:
            raise ConnectionError("it has died")
        return replying(_forgetful)(body)

    with answering(script) as url:
        told = sagabox("conform", url, "--json")
    document = json.loads(told.out)
    first, *rest = document["trials"]
    assert (first["ending"], first["came"][:10]) == ("failed", "no answer:")
    assert {it["why"] for it in rest} == {f"the participant answers no more since {first['name']}"}
    assert told.code == 1


# Restarting


@pytest.mark.parametrize(
    ("command", "why"), [("exit 3", "it ended with 3"), ("/nowhere/restart", "it ended with 127")]
)
def test_a_restart_command_that_fails_is_told_as_such(command: str, why: str) -> None:
    def script(event: Envelope) -> Reply:
        kind = event.type.split(".")[1]
        outcome = {"refuse": Outcome.REFUSED, "later": Outcome.ONGOING}.get(kind, Outcome.DONE)
        if kind == "remove":
            outcome = Outcome.NOTHING_TO_UNDO
        code = {"refuse": "no", "later": "pending"}.get(kind)
        return Reply(outcome, value=_READ, code=code)

    with answering(replying(script)) as url:
        only = "--only", "undo-across-a-restart"
        told = sagabox("conform", url, *only, "--restart", command, "--json")
    error = told_error(told)
    assert error["happened"] == "--restart did not restart the participant"
    assert error["why"] == why


async def test_a_person_is_asked_on_a_terminal_and_in_a_pipe_the_trial_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restart_by(None, may_ask=True) is None
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "\n", raising=False)
    assert restart_by(None, may_ask=False) is None
    ask = restart_by(None, may_ask=True)
    assert ask is not None
    monkeypatch.setattr(output, "width", lambda: 80)
    await ask()
    assert "press Enter" in capsys.readouterr().out


async def test_a_restart_command_is_one_of_the_shell(tmp_path: Path) -> None:
    restart = restart_by(f"echo done > {tmp_path}/told && true", may_ask=False)
    assert restart is not None
    await restart()
    assert (tmp_path / "told").read_text() == "done\n"
