"""The output of the commands, as sentences for the terminal."""

from __future__ import annotations

import json

import typer

from migrations.commands import Findings, Moved, Standing
from migrations.errors import MigrationError
from migrations.history import BASE
from migrations.services import Service
from outbox.spelling import safe


def report(error: MigrationError) -> None:
    """Tell the error on stderr: what happened, why, and what to do next."""
    happened, why, next_step = map(safe, (error.happened, error.why, error.next_step))
    typer.echo(f"error: {happened}\n  why:  {why}\n  next: {next_step}", err=True)


def tell_moved(service: Service, moved: Moved) -> None:
    """Tell each step, what it deleted, and where the database stands now."""
    for step in moved.steps:
        typer.echo(f"{service.name}: {'applied' if step.upward else 'took back'} {step.revision}")
    for loss in moved.deleted:
        typer.echo(f"{service.name}: deleted {safe(loss)}")
    already = "" if moved.steps else "already "
    typer.echo(f"{service.name}: {already}at {safe(moved.now_at or BASE)}")


def in_words(standing: Standing) -> str:
    """The revision, and how it relates to the newest that this code knows."""
    place = safe(standing.current or BASE)
    if standing.newer:
        return f"{place} (newer than this code, which knows {standing.head})"
    if standing.behind:
        return f"{place} ({standing.behind} behind {standing.head})"
    return f"{place} (head)"


def tell_findings(service: Service, findings: Findings) -> None:
    """Tell each difference and what to do about it, or that there is none."""
    if not findings.differences:
        typer.echo(f"{service.name}: the database is as the code expects")
        return
    for sentence in findings.differences:
        typer.echo(f"{service.name}: {safe(sentence)}")
    typer.echo(f"{service.name}: next: {safe(findings.next_step)}")


def print_json(value: object) -> None:
    """Print the value for programs."""
    typer.echo(json.dumps(value, indent=2))
