"""What others wrote stays one line of text that a terminal only shows, wherever it is told."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from collections.abc import Callable, Iterator

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from migrations import telling
from migrations.commands import Findings
from migrations.errors import MigrationError
from migrations.services import SERVICES
from orchestrator.cli.demo.checks import Outcome
from orchestrator.cli.demo.narrator import Narrator
from orchestrator.cli.processes.printer import Printer
from orchestrator.cli.terminal.errors import CommandError, Commands
from orchestrator.cli.terminal.log_format import LogFormat, configure_logging
from orchestrator.cli.terminal.output import print_fields, print_line, print_table
from outbox.errors import OutboxError
from outbox.spelling import safe

FORGED = "2030-01-01T00:00:00Z [info] all is well"
FOREIGN = (
    f"court\n{FORGED}\r\x1b[2J\x1b]0;title\x07\x08\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\u200f"
    "\ufeff[bold]not bold[/bold][/nothing]"
)
SPELLED = (
    rf"court\n{FORGED}\r\x1b[2J\x1b]0;title\x07\x08\x7f\x85\x9b31m\u2028\u2029\u202e\u2066\u200f"
    r"\ufeff[bold]not bold[/bold][/nothing]"
)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("articles", "comments", "orchestrator", "outbox", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def _is_only_shown(told: str) -> bool:
    """Whether no character but the ends of lines does anything."""
    doing = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    return all(it == "\n" or unicodedata.category(it) not in doing for it in told)


def test_every_character_that_does_something_is_spelled_out() -> None:
    assert safe(FOREIGN) == SPELLED
    assert safe(SPELLED) == SPELLED
    assert safe("Größe 😀 漢字") == "Größe 😀 漢字"
    every = "".join(map(chr, range(0x110000)))
    assert _is_only_shown(safe(every))
    assert "\n" not in safe(every)


def test_a_line_of_the_log_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.TEXT)
    log = logging.getLogger("articles")
    log.warning("held: %s", FOREIGN, extra={"reason": FOREIGN, "more": [FOREIGN]})
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert _is_only_shown(told)
    assert f"held: {SPELLED}" in told
    assert f"reason='{SPELLED}'" in told


def test_a_traceback_in_the_log_begins_no_line_where_the_log_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogFormat.TEXT)
    try:
        raise ValueError(FOREIGN)
    except ValueError:
        logging.getLogger("articles").exception("failed", stack_info=True)
    told = capsys.readouterr().err
    head, *rest = told.splitlines()
    assert head.partition("failed")[1]
    assert all(not it or it.startswith("  ") for it in rest)
    assert any("Traceback" in it for it in rest)
    assert _is_only_shown(told)


def test_a_line_of_json_has_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON)
    logging.getLogger("articles").warning("held: %s", FOREIGN, extra={"reason": FOREIGN})
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["reason"]) == (f"held: {FOREIGN}", FOREIGN)


@pytest.mark.parametrize(
    "tell",
    [
        lambda: print_line(FOREIGN),
        lambda: print_fields([("reason", FOREIGN)]),
        lambda: print_table(["REASON"], [[FOREIGN]]),
        lambda: telling.report(MigrationError(FOREIGN, FOREIGN, FOREIGN)),
        lambda: telling.tell_findings(SERVICES["articles"], Findings([FOREIGN], FOREIGN)),
    ],
    ids=["a line", "fields", "a table", "an error of a migration", "findings"],
)
def test_commands_show_it(tell: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    tell()
    told = "".join(capsys.readouterr())
    assert _is_only_shown(told)
    assert FORGED not in told.splitlines()
    assert r"\x1b[2J" in told


@pytest.mark.parametrize(
    "error",
    [CommandError(FOREIGN, FOREIGN, FOREIGN), OutboxError(FOREIGN, next_step=FOREIGN)],
    ids=["a command's", "the library's"],
)
def test_an_error_has_three_lines_at_most(error: Exception) -> None:
    main = typer.Typer(cls=Commands)

    @main.callback()
    def top() -> None: ...

    @main.command()
    def fail() -> None:
        raise error

    told = CliRunner().invoke(main, ["fail"]).stderr
    assert len(told.splitlines()) <= 3
    assert _is_only_shown(told)
    assert f"error: {SPELLED}" in told


def _console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, highlight=False, width=500, soft_wrap=True), file


def test_the_lines_of_a_service_are_shown_under_its_name() -> None:
    console, file = _console()
    Printer(["articles"], console)("articles", FOREIGN)
    assert file.getvalue() == f"articles | {SPELLED}\n"


def test_the_demo_tells_it() -> None:
    console, file = _console()
    narrator = Narrator(console)
    narrator.scene(FOREIGN)
    narrator.say(FOREIGN)
    narrator.table([Outcome(scene=FOREIGN, result=FOREIGN, seconds=1.0, how=FOREIGN, checks=[])])
    told = file.getvalue()
    assert _is_only_shown(told)
    assert FORGED not in [it.strip() for it in told.splitlines()]
    assert "[bold]not bold[/bold][/nothing]" in told
