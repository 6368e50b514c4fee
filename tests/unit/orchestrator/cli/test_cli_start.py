"""How commands start: what they do without, so that each is there at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from orchestrator.cli import main
from tests.support.checkout import ROOT
from tests.support.orchestrator.stub_orchestrator import ID, Answer, StubOrchestrator, saga
from tests.support.processes.cli import sagabox

_HEAVY = {
    *("aiosqlite", "alembic", "asyncpg", "fastapi", "opentelemetry", "prometheus_client"),
    *("psycopg", "pydantic_settings", "sqlalchemy", "starlette", "structlog"),
    *("uvicorn", "uvloop"),
}
_HTTP = {"anyio", "asyncio", "httpx"}
_TOLD = """
import json, sys
from orchestrator.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported(*words: str) -> set[str]:
    """The modules that a process has imported when this command has run in it."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["audit", "--help"], ["dev", "-h"]], ids=" ".join
)
def test_help_needs_neither_databases_nor_the_network(words: list[str]) -> None:
    assert imported(*words) & (_HEAVY | _HTTP) == set()


@pytest.mark.parametrize("words", [["list"], ["show", ID]], ids=["list", "show"])
def test_what_asks_the_orchestrator_needs_no_databases(
    stub: StubOrchestrator, words: list[str]
) -> None:
    stub.on("GET", "/sagas", Answer({"items": [], "next_cursor": None}))
    stub.on("GET", f"/sagas/{ID}", Answer(saga()))
    assert imported(*words) & _HEAVY == set()


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"COMP_WORDS": "sagabox wat", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "sagabox wat"}),
        (
            "fish",
            {"_TYPER_COMPLETE_ARGS": "sagabox wat", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        ),
    ],
)
def test_a_shell_that_asks_is_told_how_a_command_goes_on(
    shell: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_SAGABOX_COMPLETE": f"complete_{shell}", **variables}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "watch" in done.stdout
    assert "pause" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_can_be_had(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "--show-completion", shell],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "_SAGABOX_COMPLETE" in done.stdout, done


def test_every_command_and_group_takes_h_for_help() -> None:
    group = typer.main.get_command(main)
    assert isinstance(group, typer.core.TyperGroup)
    words: list[list[str]] = [[], *([name] for name in group.commands)]
    for name, command in group.commands.items():
        words += [[name, it] for it in getattr(command, "commands", {})]
    assert len(words) > 30
    for each in words:
        told = sagabox(*each, "-h")
        assert (told.code, "Usage:" in told.out) == (0, True), each
