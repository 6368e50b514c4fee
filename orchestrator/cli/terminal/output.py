"""What the commands print: one JSON document for programs, tables for people.

Foreign texts are made safe before they are shown, and written in characters that the output's
encoding has. Tables, fields and paragraphs keep within the columns of a terminal; where the output
is none, nothing is cut and no line broken.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from orchestrator.cli.terminal.encodings import ellipsis_of, printable
from orchestrator.cli.terminal.fitting import Column, line_of, table, wrapped

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
"""The option that every command has."""

_STYLES = {
    "COMPLETED": "green",
    "COMPENSATED": "yellow",
    "STUCK": "bold red",
    "TERMINATED": "red",
    "RESOLVED": "magenta",
}


def print_json(value: object) -> None:
    """Print the value for programs. Plain ASCII, so no terminal is written to either."""
    typer.echo(json.dumps(value, indent=2))


def print_line(text: str, style: str = "") -> None:
    """Print one line, made safe, however long it is."""
    _print(Text(_shown(text), style=style))


def print_paragraph(text: str, style: str = "", indent: str = "    ") -> None:
    """Print one line, made safe; on a terminal it is broken at spaces, and goes on indented."""
    for line in wrapped(_shown(text), width(), indent=indent):
        _print(Text(line, style=style))


def print_command(command: str) -> None:
    """Print a command to copy, indented; a shell takes it whole where it needs two lines."""
    for line in wrapped(f"  {_shown(command)}", width(), indent="    ", joint=" \\"):
        _print(Text(line))


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other; names without a value are left out."""
    shown = [(name, _shown(value)) for name, value in fields if value not in (None, "", [])]
    names = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        columns = width()
        lines = wrapped(value, None if columns is None else max(2, columns - names - 2))
        for label, line in zip_longest([name], lines, fillvalue=""):
            style = _STYLES.get(value, "")
            _print(Text.assemble((f"{label:{names}}  ", "dim"), (line, style)))


def print_table(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[object]],
    notes: Iterable[Sequence[tuple[str, object]]] = (),
) -> None:
    """Print the rows; cells that name a status have its colour. Each row's notes, by their names,
    stand below it.

    Where the columns do not fit into the terminal, each row is printed as fields instead.
    """
    named = [it if isinstance(it, Column) else Column(it) for it in columns]
    cells = [[_shown(cell) for cell in row] for row in rows]
    below = [list(it) for it in notes] or [[] for _ in cells]
    found = table(named, cells, width(), ellipsis_of(sys.stdout))
    if found is None:
        for row, more in zip(cells, below, strict=True):
            print_fields([*zip((it.header for it in named), row, strict=True), *more])
            _print(Text())
        return
    _print(Text.assemble(*line_of(found[0]), style="bold"))
    for shown, more in zip(found[1:], below, strict=True):
        _print(Text.assemble(*((it, _STYLES.get(it.strip(), "")) for it in line_of(shown))))
        for name, value in more:
            if value not in (None, ""):
                print_paragraph(f"  {name}: {value}")


def status_text(saga: Mapping[str, Any]) -> str:
    """The status of the run, with a second word while it is paused."""
    return f"{saga['status']} (paused)" if saga.get("paused") else str(saga["status"])


def width() -> int | None:
    """The columns of the terminal; None where the output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _shown(value: object) -> str:
    return printable(value, sys.stdout)


def _print(line: Text) -> None:
    # Lines are as wide as they shall be: the console only adds colours.
    Console(highlight=False, markup=False, emoji=False).print(line, soft_wrap=True)
