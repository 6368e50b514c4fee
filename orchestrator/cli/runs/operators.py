"""`sagabox cancel`, `terminate`, `resolve`, `pause`, `resume`, `retry` and `skip`: an operator's
signals, by name and with a reason."""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli.runs.ids import InstanceId, path_of, whole_id
from orchestrator.cli.runs.outcomes import outcome, stuck_steps
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.output import Json, print_json, print_paragraph
from outbox.wire import strict_json

_Reason = Annotated[str, typer.Option(metavar="R", help="Why; it is kept in the history.")]
_Actor = Annotated[
    str | None, typer.Option(metavar="A", help="Who asks for it; otherwise your user name.")
]
_Step = Annotated[
    str | None, typer.Option(metavar="S", help="The step; needed where several are stuck.")
]


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
        reason: _Reason,
        step: _Step = None,
        actor: _Actor = None,
        json_: Json = False,
        url: Url = None,
    ) -> None:
        _signal(verb, instance_id, reason, actor, url, as_json=json_, for_step=True, step=step)

    command.__name__, command.__doc__ = verb, does
    return command


def skip(
    instance_id: InstanceId,
    reason: _Reason,
    step: _Step = None,
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
    _signal(
        "skip", instance_id, reason, actor, url, as_json=json_, for_step=True, step=step, **supplied
    )


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
    for_step: bool = False,
    **more: Any,
) -> None:
    body = {"reason": reason, "actor": actor or user_name(), **more}
    with connect(url) as api:
        id = whole_id(api, instance_id, f"sagabox {verb}")
        if for_step and body["step"] is None:
            body["step"] = _stuck_step(api, id, verb)
        saga = api.post(f"{path_of(id)}/{verb}", body).body
    if as_json:
        print_json(saga)
    else:
        print_paragraph(f"{verb} of {saga['id']} is taken in; it is {outcome(saga)}")


def _stuck_step(api: Api, id: str, verb: str) -> str:
    """The one step of the run that is stuck. Raises CommandError where there is not exactly one."""
    steps = [str(it["name"]) for it in stuck_steps(api.get(path_of(id)))]
    match steps:
        case [one]:
            return one
        case []:
            raise CommandError(
                f"there is nothing to {verb} at {id}",
                "none of its steps is stuck",
                f"sagabox show {id}",
            )
        case _:
            named = (shlex.join(["--step", it]) for it in steps)
            raise CommandError(
                f"several steps of {id} are stuck",
                f"{verb} is for one of them",
                " | ".join(f"sagabox {verb} {id} {it} --reason REASON" for it in named),
            )


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
