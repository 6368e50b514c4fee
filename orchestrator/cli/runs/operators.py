"""`sagabox cancel`, `terminate`, `resolve`, `pause`, `resume`, `retry` and `skip`: an operator's
signals, by name and with a reason."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.runs.sagas import InstanceId
from orchestrator.cli.runs.watch import outcome
from orchestrator.cli.terminal.client import Url, connect
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.output import Json, print_json, print_line
from outbox.wire import strict_json

_Reason = Annotated[str, typer.Option(metavar="R", help="Why; it is kept in the history.")]
_Actor = Annotated[
    str | None, typer.Option(metavar="A", help="Who asks for it; otherwise your user name.")
]
_Step = Annotated[str, typer.Option(metavar="S", help="The step that is stuck.")]


def _for_run(verb: str, does: str) -> Callable[..., None]:
    """A command that sends one signal to a run."""

    def command(
        instance_id: InstanceId,
        reason: _Reason,
        actor: _Actor = None,
        json_: Json = False,
        url: Url = None,
    ) -> None:
        _signal(verb, instance_id, reason, actor, url, as_json=json_)

    command.__name__, command.__doc__ = verb, does
    return command


def _for_step(verb: str, does: str) -> Callable[..., None]:
    """A command that sends one signal to a stuck step of a run."""

    def command(
        instance_id: InstanceId,
        step: _Step,
        reason: _Reason,
        actor: _Actor = None,
        json_: Json = False,
        url: Url = None,
    ) -> None:
        _signal(verb, instance_id, reason, actor, url, as_json=json_, step=step)

    command.__name__, command.__doc__ = verb, does
    return command


def skip(
    instance_id: InstanceId,
    step: _Step,
    reason: _Reason,
    result: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="What the step would have answered, going forward."),
    ] = None,
    actor: _Actor = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Take a stuck step for done, or, going backward, leave it and list it as not undone."""
    supplied = {} if result is None else {"result": json_given("--result", result)}
    _signal("skip", instance_id, reason, actor, url, as_json=json_, step=step, **supplied)


OPERATOR_COMMANDS: tuple[Callable[..., None], ...] = (
    _for_run(
        "cancel", "Turn a run back and undo it. Possible until the point of no return was sent."
    ),
    _for_run(
        "terminate",
        "End a run at once and undo nothing. What is in effect stays, and is listed.",
    ),
    _for_run("resolve", "End a stuck run: you have taken care of what is not undone."),
    _for_run("pause", "Send nothing for a run until it is resumed. Answers are still taken in."),
    _for_run("resume", "Go on with a run that was paused."),
    _for_step("retry", "Try a stuck step again."),
    skip,
)
"""The commands of an operator, in the order of `sagabox --help`."""


def _signal(
    verb: str,
    instance_id: str,
    reason: str,
    actor: str | None,
    url: str | None,
    *,
    as_json: bool,
    **more: Any,
) -> None:
    body = {"reason": reason, "actor": actor or user_name(), **more}
    with connect(url) as api:
        saga = api.post(f"/sagas/{quote(instance_id, safe='')}/{verb}", body).body
    if as_json:
        print_json(saga)
    else:
        print_line(f"{verb} of {saga['id']} is taken in; it is {outcome(saga)}")


def json_given(option: str, text: str) -> Any:
    """The JSON that this option was given. Raises CommandError."""
    try:
        return strict_json.check(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise CommandError(
            f"the {option[2:]} cannot be used", str(error), f"""{option} '{{"field": "value"}}'"""
        ) from error


def user_name() -> str:
    """The name of the user who runs this command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the system has no name for the number
        return f"uid {os.getuid()}"
