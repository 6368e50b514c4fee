"""Refusals of an orchestrator, explained at the terminal with the command to type next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.terminal.errors import CommandError, ExitCode
from outbox.spelling import safe

_OF_A_STEP = ("retry", "skip")
_NO_TOKEN = ("credentials-missing", "credentials-wrong")


@dataclass(frozen=True)
class Answer:
    """An answer: its status, its JSON, and its headers with lower-case names."""

    status: int
    body: Any
    headers: Mapping[str, str]


def refusal(answer: Answer, method: str, path: str) -> CommandError:
    """The error for an answer whose body is a problem (RFC 9457)."""
    body = answer.body
    code = str(body["code"])
    return CommandError(
        safe(body.get("title") or code.replace("-", " ")),
        safe(body["detail"]),
        _next_step(code, answer, method, path),
        exit_code=ExitCode.UNREACHABLE if answer.status >= 500 else ExitCode.REFUSED,
        code=code,
    )


def _next_step(code: str, answer: Answer, method: str, path: str) -> str:
    said = safe(answer.body["next_step"])
    match path.strip("/").split("/"):
        case _ if code in _NO_TOKEN:
            return f"{said} In this terminal: export SAGABOX_TOKEN=TOKEN"
        case ["sagas", instance_id, _] if code == "illegal-signal":
            return _possible(instance_id, answer.body.get("allowed") or [])
        case _ if code == "saga-active" and "location" in answer.headers:
            return f"sagabox watch {safe(answer.headers['location'].rpartition('/')[2])}"
        case ["sagas", _] | ["sagas", _, _] if answer.status == 404 and method == "GET":
            return f"sagabox list ({said})"
        case ["sagas", _, _] if answer.status == 404:
            return f"sagabox list ({said})"
        case _:
            return said


def _possible(instance_id: str, allowed: list[str]) -> str:
    """The operator signals that are possible now, as commands."""
    if not allowed:
        return f"nothing can be done to it any more; sagabox show {instance_id} --history"
    return " | ".join(operator_command(instance_id, safe(verb)) for verb in allowed)


def operator_command(instance_id: str, verb: str, *, names_step: bool = False) -> str:
    """The command for this operator signal. Its step need not be named where one alone is
    stuck."""
    step = " --step STEP" if names_step and verb in _OF_A_STEP else ""
    return f"sagabox {verb} {instance_id}{step} --reason REASON"
