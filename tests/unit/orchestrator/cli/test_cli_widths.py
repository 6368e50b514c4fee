"""What the commands print for people keeps within the terminal, in any encoding, and loses
nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli.terminal import output
from orchestrator.cli.terminal.errors import Commands
from tests.support.checkout import ROOT
from tests.support.databases.migrating import Told
from tests.support.orchestrator.stub_orchestrator import (
    ID,
    OTHER,
    Answer,
    StubOrchestrator,
    entry,
    saga,
    summary,
)
from tests.support.processes.cli import sagabox_in

ENCODINGS = ("utf-8", "latin-1", "ascii")
KEYS = ("Größe 😀", "注文の取り消し" * 8, f"order-{'7' * 60}-a", f"order-{'7' * 60}-b", "a1")
REASON = "the press burns: " + "注文は届いていません。" * 6 + " and " + "w" * 150 + " 😀 über"
(_STEP,) = saga()["steps"]


def cells(text: str) -> int:
    """How wide a terminal shows it."""
    return sum(2 if unicodedata.east_asian_width(it) in "WF" else 1 for it in text)


def squeezed(text: str) -> str:
    return "".join(text.split())


def as_written(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def runs() -> list[dict[str, Any]]:
    return [
        summary(
            status,
            id=f"{ID[:12]}{number}{ID[13:]}",
            key=key,
            name="delete-article-and-all-of-its-comments",
            paused=number == 1,
        )
        for number, (key, status) in enumerate(
            zip(KEYS, ("STUCK", "COMPENSATING", "COMPLETED", "RUNNING", "TERMINATED"), strict=True)
        )
    ]


def large_run() -> dict[str, Any]:
    steps = [
        _STEP
        | {
            "name": f"{number}: hide the article and all that belongs to it 😀",
            "status": "STUCK",
            "participant": "the-participant-of-a-long-name",
            "reason": REASON,
            "waits_for": "operator",
        }
        for number in range(3)
    ]
    return saga("STUCK", key=KEYS[1], state={"it": REASON}, steps=steps, parked=REASON)


@pytest.fixture
def told_by(stub: StubOrchestrator) -> StubOrchestrator:
    letters = [
        {
            "id": it,
            "destination": "a-service-of-a-long-name",
            "type": "outbox.saga-ended.v1",
            "saga": ID,
            "attempts": 12,
            "died_at": "2030-01-01T12:00:00.123456Z",
            "reason": REASON,
        }
        for it in (ID, OTHER)
    ]
    stub.on("GET", "/sagas", Answer({"items": runs(), "next_cursor": "AZM2uwAAcAC" * 3}))
    stub.on("GET", f"/sagas/{ID}", Answer(large_run()))
    stub.on("GET", "/dead-letters", Answer({"items": letters, "next_cursor": "AZM2uwAAcAC" * 3}))
    lines = [entry(1, "answered", step="hide", detail=REASON, at="2030-01-01T12:00:00.123456Z")]
    stub.on("GET", f"/sagas/{ID}/history", Answer({"items": lines, "next_cursor": None}))
    return stub


COMMANDS = {
    "list": ("list",),
    "show": ("show", ID, "--history"),
    "dead-letters": ("dead-letters",),
}


def told(command: str, encoding: str, columns: int | None) -> Told:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(output, "width", lambda: columns)
        answer = sagabox_in(encoding, *COMMANDS[command])
    assert (answer.code, answer.err) == (0, ""), answer
    return answer


@pytest.mark.parametrize("columns", [80, 60, 30])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_longer_than_the_terminal_is_wide(
    told_by: StubOrchestrator, command: str, encoding: str, columns: int
) -> None:
    lines = told(command, encoding, columns).out.splitlines()
    assert [it for it in lines if cells(it) > columns] == []
    assert len(lines) > 3


@pytest.mark.parametrize("columns", [None, 80, 60])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ["show", "dead-letters"])
def test_reasons_are_told_whole(
    told_by: StubOrchestrator, command: str, encoding: str, columns: int | None
) -> None:
    reason = squeezed(as_written(REASON, encoding))
    shown = squeezed(told(command, encoding, columns).out)
    assert shown.count(reason) >= 2


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_tells_each_run_by_cells_none_of_which_is_empty(
    told_by: StubOrchestrator, encoding: str, columns: int
) -> None:
    out = told("list", encoding, columns).out.partition("more:")[0]
    names = ["id", "saga", "status", "waits/ended", "key", "begun"]
    if columns == 60:
        fields = [it.split(maxsplit=1) for it in out.splitlines() if it[:1].strip()]
        assert [it[0] for it in fields] == names * len(KEYS)
        assert all(len(it) == 2 for it in fields)
        return
    head, *rows = out.splitlines()
    assert head.split() == names
    for row, run in zip(rows, runs(), strict=True):
        columns_told = re.split(r"  +", row)
        assert run["id"].startswith(columns_told[0])
        assert columns_told[2] == run["status"]
        assert len(columns_told) == len(names), row
        assert all(columns_told), row
    assert len({it.split()[0] for it in rows}) == len(KEYS)


def test_keys_that_differ_at_their_ends_alone_are_told_apart(stub: StubOrchestrator) -> None:
    page = {"items": runs(), "next_cursor": None}
    stub.on("GET", "/sagas", Answer(page))
    out = told("list", "utf-8", 80).out
    assert out.count("…") >= 2
    assert ("…" in out, "..." in out) == (True, False)
    for encoding in ("latin-1", "ascii"):
        assert "..." in told("list", encoding, 80).out


def test_keys_that_differ_in_their_middle_alone_are_told_whole(stub: StubOrchestrator) -> None:
    keys = [f"{'x' * 60}{it}{'y' * 60}" for it in "ab"]
    other = f"{ID[:12]}0{ID[13:]}"
    items = [summary(id=ID, key=keys[0]), summary(id=other, key=keys[1])]
    stub.on("GET", "/sagas", Answer({"items": items, "next_cursor": None}))
    shown = squeezed(told("list", "utf-8", 80).out)
    assert all(it in shown for it in keys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_gets_whole_ids_and_unbroken_lines(told_by: StubOrchestrator, command: str) -> None:
    out = told(command, "ascii", None).out
    assert (runs()[0]["id"] if command == "list" else ID) in out
    if command == "list":
        assert len(out.splitlines()) == 1 + len(KEYS) + 2
        assert KEYS[2] in out


@pytest.mark.parametrize("command", COMMANDS)
def test_times_are_relative_or_to_the_second(told_by: StubOrchestrator, command: str) -> None:
    told_by.now = "Tue, 01 Jan 2030 12:03:30 GMT"
    out = told(command, "utf-8", None).out
    assert ".123456" not in out
    assert "3 min ago" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_json_stays_exact(told_by: StubOrchestrator, command: str) -> None:
    answer = sagabox_in("ascii", *COMMANDS[command], "--json")
    assert any(
        it in json.dumps(json.loads(answer.out), ensure_ascii=False) for it in (KEYS[1], REASON)
    )


def test_an_error_in_another_encoding_is_told_all_the_same(stub: StubOrchestrator) -> None:
    answer = sagabox_in("ascii", "list", "--url", "größe 😀")
    assert (answer.code, "gr\\xf6" in answer.err) == (2, True)


def test_help_in_another_encoding_is_printed() -> None:
    for command in ([], ["list"], ["watch"], ["dead-letters"]):
        assert sagabox_in("ascii", *command, "--help").code == 0


def test_no_command_fails_since_the_encoding_of_its_output_lacks_a_character() -> None:
    """A command such as `dev`, which prints what others write."""
    app = typer.Typer(cls=Commands)

    @app.command()
    def one() -> None:
        sys.stdout.write("Größe 😀")

    @app.command()
    def another() -> None: ...

    answer = CliRunner(charset="latin-1").invoke(app, ["one"])
    assert (answer.exit_code, answer.stdout) == (0, "Größe \\U0001f600")


def test_the_width_of_a_terminal_is_found_and_of_a_pipe_none_with_any_columns(
    told_by: StubOrchestrator,
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 60, 0, 0))
    command = [sys.executable, "-m", "orchestrator.cli", "list"]
    environment = {name: it for name, it in os.environ.items() if name != "COLUMNS"}
    with os.fdopen(ours, "rb", 0) as terminal:
        subprocess.run(command, stdout=theirs, cwd=ROOT, env=environment, check=True, timeout=100)
        shown = terminal.read(100_000).decode()
        os.close(theirs)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(cells, plain)) <= 60
    piped = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert runs()[0]["id"] in piped.stdout
    assert max(map(cells, piped.stdout.splitlines())) > 80
