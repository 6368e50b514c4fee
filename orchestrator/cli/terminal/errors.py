"""Errors of commands, and how the terminal tells them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from orchestrator.cli.terminal.encodings import printable
from orchestrator.errors import OrchestratorError
from outbox.errors import OutboxError
from outbox.safe_text import is_text
from outbox.spelling import safe


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    """It is as it should be."""
    OTHERWISE = 1
    """The run ended otherwise than COMPLETED, the audit found a divergence, explore or simulate a
    broken promise, doctor a problem, or conform a trial that failed."""
    REFUSED = 2
    """The command line is wrong, or the request was refused; nothing was changed."""
    UNREACHABLE = 3
    """The orchestrator, a database, or the participant to try, cannot be reached or does not
    answer."""
    INCONCLUSIVE = 4
    """The audit cannot tell, because messages rest."""
    STUCK = 5
    """The run that was watched or waited for is STUCK: it needs an operator."""
    TIME_UP = 6
    """The run that was watched or waited for goes on after the time that was given."""


EXIT_CODES = (
    "Exit codes: 0 as it should be; 1 the saga that was waited for or watched ended otherwise than "
    "COMPLETED, the audit found a divergence, explore or simulate a broken promise, doctor a "
    "problem, or conform a trial that failed; 2 wrong usage, or the request was refused; 3 the "
    "orchestrator, a database, or the participant that conform tries, cannot be reached; 4 the "
    "audit cannot tell; 5 the saga is STUCK; 6 it goes on after the time that was given."
)
"""The exit codes, for the help of the commands."""


class CommandError(Exception):
    """A command could not do its work. `next_step` is one line; a command, where one mends it.

    `code` is the orchestrator's own word for the problem, where it refused.
    """

    def __init__(
        self,
        happened: str,
        why: str,
        next_step: str,
        *,
        exit_code: ExitCode = ExitCode.REFUSED,
        code: str | None = None,
    ) -> None:
        super().__init__(happened, why, next_step)
        self.happened = happened
        self.why = why
        self.next_step = next_step
        self.exit_code = exit_code
        self.code = code

    def __str__(self) -> str:
        return f"{self.happened}: {self.why}; {self.next_step}"


# `typer` itself names only this kind of a wrong command line; its base is every kind.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """A group of commands whose expected errors end in three lines on stderr, or with --json in one
    JSON document there, and in the error's exit code.

    Anything else is a defect of this program and shows its traceback.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        """As Click's. What the output's encoding lacks is spelled out, and never an error."""
        for output in (sys.stdout, sys.stderr):
            if isinstance(output, io.TextIOWrapper):
                output.reconfigure(errors="backslashreplace")
        return super().main(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        words = [*ctx._protected_args, *ctx.args]
        as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
        try:
            _require_text(words)
            return super().invoke(ctx)
        except CommandError as error:
            _report(error, as_json)
            raise typer.Exit(error.exit_code) from error
        except (OutboxError, OrchestratorError) as error:
            _report(CommandError(error.problem, "", error.next_step), as_json)
            raise typer.Exit(ExitCode.REFUSED) from error
        except _UsageError as error:
            if not as_json:
                raise
            command = getattr(error.ctx, "command_path", "sagabox")
            _report(
                CommandError("wrong usage", error.format_message(), f"{command} --help"), as_json
            )
            raise typer.Exit(ExitCode.REFUSED) from error


def _require_text(words: Sequence[str]) -> None:
    """Raises CommandError where one of them is neither text nor the name of a file."""
    for word in words:
        # Bytes that are no UTF-8 come as lone surrogates, which nothing sends or stores.
        if not is_text(word) and not os.path.lexists(word.partition("=")[2] or word):
            raise CommandError(
                f"{safe(word)[:100]} is no text",
                "what stands on a command line is read as UTF-8",
                "type it in UTF-8; `locale` shows what the terminal takes",
            )


def _report(error: CommandError, as_json: bool) -> None:
    if as_json:
        told = {
            "happened": error.happened,
            "why": error.why or None,
            "next_step": error.next_step,
            "code": error.code,
            "exit_code": int(error.exit_code),
        }
        typer.echo(json.dumps({"error": told}, indent=2), err=True)
        return
    lines = [f"error: {error.happened}", f"  next: {error.next_step}"]
    if error.why:
        lines.insert(1, f"  why:  {error.why}")
    for line in lines:
        typer.echo(printable(line, sys.stderr), err=True)
