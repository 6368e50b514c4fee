"""`sagabox demo`: deletions during which services are killed, and what is left is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.ways.way import HELP, HTTP, METAVAR


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep the databases and logs there, instead of removing them."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="At the end leave the services running, until Ctrl-C.")
    ] = False,
    transport: Annotated[str, typer.Option(metavar=METAVAR, help=HELP)] = HTTP,
) -> None:
    """Delete articles with their comments while services are killed, and check what is left.

    Starts the three services in a new folder and on free ports. Ends with 0 only if every check
    held, with 1 if one did not, and leaves nothing running or behind.
    """
    # Only now: the other commands do not need what this one does.
    from orchestrator.cli.demo.play import play

    play(folder, keep=keep, transport=transport)
