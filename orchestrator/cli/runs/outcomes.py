"""How a run stands, as a line for people and as an exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.terminal.errors import ExitCode
from orchestrator.cli.terminal.output import status_text
from orchestrator.cli.terminal.refusals import operator_command
from orchestrator.machine.instance import Status
from outbox.safe_text import joined

_REPAIRS = ("retry", "skip", "resolve", "terminate")


def how_it_stands(saga: Mapping[str, Any]) -> ExitCode:
    """The exit code of a command that has waited for the run, which goes on where it is
    TIME_UP."""
    match saga["status"]:
        case Status.COMPLETED:
            return ExitCode.OK
        case Status.STUCK:
            return ExitCode.STUCK
        case _:
            return ExitCode.TIME_UP if saga["ended_at"] is None else ExitCode.OTHERWISE


def outcome(saga: Mapping[str, Any]) -> str:
    """The run's status and what to do, as one line."""
    match saga["status"]:
        case Status.STUCK:
            commands = repairs(saga) or [f"sagabox show {saga['id']}"]
            return f"{status_text(saga)}; next: {' | '.join(commands)}"
        case _ if saga["ended_at"] is None:
            return f"{status_text(saga)}; next: sagabox watch {saga['id']}"
        case _:
            why = cause(saga)
            return status_text(saga) if why is None else f"{status_text(saga)}, because {why}"


def cause(saga: Mapping[str, Any]) -> str | None:
    """Why the run turned back, or was ended by a person; None where it did neither."""
    told = saga["cause"]
    return None if told is None else joined(told["code"], told["reason"])


def repairs(saga: Mapping[str, Any]) -> list[str]:
    """The commands by which an operator may repair a stuck run."""
    return [operator_command(saga["id"], it) for it in saga["allowed"] if it in _REPAIRS]


def stuck_steps(saga: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The run's steps that cannot go on without an operator."""
    return [it for it in saga["steps"] if it["status"] == Status.STUCK.value]
