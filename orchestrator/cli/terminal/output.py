"""What the commands print: one JSON document for programs, tables for people.

Foreign texts are made safe before they are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outbox.spelling import safe

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
"""The option that every command has."""

_WIDE = 200  # columns without a terminal, so that no row is broken into two lines
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
    """Print one line, made safe."""
    _console().print(Text(safe(text), style=style), soft_wrap=True)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values below each other; names without a value are left out."""
    shown = [(name, safe(value)) for name, value in fields if value not in (None, "", [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        line = Text.assemble((f"{name:{width}}  ", "dim"), (value, _STYLES.get(value, "")))
        _console().print(line, soft_wrap=True)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print the rows; cells that name a status have its colour."""
    table = Table(*headers, header_style="bold", pad_edge=False, box=None)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for row in rows:
        cells = [safe(cell) for cell in row]
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    _console().print(table)


def status_text(saga: dict[str, Any]) -> str:
    """The status of the run, with a second word while it is paused."""
    return f"{saga['status']} (paused)" if saga.get("paused") else str(saga["status"])


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console
