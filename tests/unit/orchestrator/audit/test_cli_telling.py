"""How `sagabox dev` and `sagabox demo` tell things, on a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import Literal

from rich.console import Console

from orchestrator.cli.demo.checks import Check
from orchestrator.cli.demo.narrator import Narrator
from orchestrator.cli.processes.printer import Printer


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    colors: Literal["standard"] | None = "standard" if terminal else None
    return Console(
        file=file, force_terminal=terminal, color_system=colors, highlight=False, width=200
    ), file


def _printed(*, terminal: bool) -> list[str]:
    console, file = _console(terminal=terminal)
    tell = Printer(["articles", "dev"], console)
    tell("articles", "one")
    tell("dev", "[two]")
    return file.getvalue().splitlines()


def test_each_line_has_its_speaker_in_front_and_is_told_as_it_is() -> None:
    assert _printed(terminal=False) == ["articles | one", "dev      | [two]"]


def test_on_a_terminal_each_speaker_has_a_colour_of_its_own() -> None:
    first, second = _printed(terminal=True)
    assert first == "\x1b[36marticles | \x1b[0mone"
    assert second == "\x1b[35mdev      | \x1b[0m[two]"


def _counted(*, terminal: bool) -> str:
    console, file = _console(terminal=terminal)
    with Narrator(console) as narrator:
        for done in range(51):
            narrator.count(done, 50, " done")
    return file.getvalue()


def test_a_count_is_told_in_steps_where_it_cannot_move() -> None:
    told = [line.partition(" s  ")[2] for line in _counted(terminal=False).splitlines()]
    assert told == [f"{done} of 50 done" for done in (10, 20, 30, 40, 50)]


def test_on_a_terminal_a_count_moves_in_one_line_that_is_gone_at_the_end() -> None:
    told = _counted(terminal=True)
    assert told.count("\n") == 1
    assert told.endswith("\x1b[1A\x1b[2K")


def test_a_check_that_did_not_hold_says_what_was_expected_and_found() -> None:
    console, file = _console(terminal=False)
    with Narrator(console) as narrator:
        narrator.check(Check("two and two", 4, 4))
        narrator.check(Check("two and three", 5, 6))
    first, second = file.getvalue().splitlines()
    assert first.endswith("  ok: two and two")
    assert second.endswith("  BROKEN: two and three: expected 5, found 6")
