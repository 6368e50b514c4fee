"""`sagabox coverage`: what the tools for testing sagas try, and what each of them leaves out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.output import Json, print_json, print_line, print_table
from orchestrator.testing.coverage import COVERAGE, CoverageRow, Covered, Tool, not_covered


def coverage(
    tool: Annotated[
        Tool | None,
        typer.Argument(help="With this one: how it does it, and what it leaves out."),
    ] = None,
    json_: Json = False,
) -> None:
    """Show what explore, simulate and check_saga try of sagas, and what they do not.

    That is what a saga is written with, what may go wrong, what must hold all
    the same, and how messages travel.
    """
    if json_:
        print_json([_document(row) for row in COVERAGE])
    elif tool is None:
        print_table(
            ("WHAT", "NAME", *(it.value for it in Tool)),
            (
                (row.subject.value, row.name, *(_word(row.by(it)) for it in Tool))
                for row in COVERAGE
            ),
        )
    else:
        print_table(
            ("WHAT", "NAME", "HOW", "LEFT OUT"),
            (
                (row.subject.value, row.name, row.by(tool).how, row.by(tool).limits)
                for row in COVERAGE
            ),
        )


def print_gaps(tool: Tool) -> None:
    """Print the gaps of that tool."""
    print_line("Not covered, or not wholly:", style="dim")
    print_table(
        ("WHAT", "NAME", "LIMITS"),
        ((row.subject.value, row.name, row.by(tool).limits) for row in not_covered(tool)),
    )


def gaps(tool: Tool) -> list[dict[str, str]]:
    """The gaps of that tool, for programs."""
    return [
        {"sort": row.subject.value, "name": row.name, "limits": row.by(tool).limits}
        for row in not_covered(tool)
    ]


def _word(covered: Covered) -> str:
    if not covered.how:
        return "no"
    return "in part" if covered.limits else "yes"


def _document(row: CoverageRow) -> dict[str, Any]:
    tools = {it.value: {"how": row.by(it).how, "limits": row.by(it).limits} for it in Tool}
    return {"sort": row.subject.value, "name": row.name, "tools": tools}
