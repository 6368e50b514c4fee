"""What a command can fail with, and how the terminal tells it."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from outbox.errors import OutboxError


class CommandError(Exception):
    """A command could not do its work. `next_step` is one line, a command where one mends it."""

    def __init__(self, happened: str, why: str, next_step: str) -> None:
        super().__init__(happened, why, next_step)
        self.happened = happened
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.happened}: {self.why}; {self.next_step}"


class Commands(TyperGroup):
    """A group of commands whose expected errors end in three lines on stderr and exit code 2.

    Anything else is a defect of this program and shows its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            _report(f"{error.happened}\n  why:  {error.why}\n  next: {error.next_step}")
            raise typer.Exit(2) from error
        except OutboxError as error:
            _report(f"{error.problem}\n  next: {error.next_step}")
            raise typer.Exit(2) from error


def _report(text: str) -> None:
    typer.echo(f"error: {text}", err=True)
