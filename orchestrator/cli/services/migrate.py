"""`sagabox migrate`: the program `python -m migrations` under another name."""

from __future__ import annotations

import typer

from orchestrator.cli.processes import bundle


def migrate(ctx: typer.Context) -> None:
    """Bring the services' databases up to date, and compare them with the code."""
    bundle.put_on_path()
    bundle.put_folder_on_path()
    from migrations.cli import main

    main(args=ctx.args, prog_name="sagabox migrate")
