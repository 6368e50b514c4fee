"""`sagabox start`, `list` and `show`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.runs.waits import awaits, print_waiting
from orchestrator.cli.runs.watch import entry_line, outcome
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import (
    Json,
    print_fields,
    print_json,
    print_line,
    print_table,
    status_text,
)
from orchestrator.cli.terminal.refusals import operator_command
from orchestrator.machine.instance import Status
from outbox.spelling import safe
from outbox.wire import strict_json
from outbox.wire.attributes import moment, written

_LONGEST_PREFER = 30  # seconds that the orchestrator itself waits at most
_LOOK = 0.5  # seconds between two looks after that
_MOST_PAGES = 100_000
_MOST_INPUT = 1024 * 1024  # bytes of a request
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]


def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which saga.")],
    text: Annotated[
        str | None, typer.Argument(metavar="[INPUT-JSON]", help="Its input, a JSON object.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE", help="Read the input from there; - is stdin."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="K", help="The same key and input again start nothing new."),
    ] = None,
    wait: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait so long for its end.")
    ] = None,
    begin_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Let it begin then: 2030-01-31T12:00:00Z."),
    ] = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Start a saga.

    With --wait, ends with 0 only if it has ended COMPLETED by then, and with 1 otherwise.
    """
    content = _input(text, input_)
    headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    prefer = min(_LONGEST_PREFER, round(wait or 0))
    if prefer:
        headers["prefer"] = f"wait={prefer}"
    with connect(url) as api:
        began = time.monotonic()
        try:
            answer = api.ask(
                "POST",
                f"/sagas/{quote(name, safe='')}",
                parameters={"begin_at": _moment(begin_at)},
                content=content,
                headers=headers,
                patience=prefer + 10.0,
            )
        except CommandError as error:
            raise _with_names(api, error) from error
        saga = answer.body
        if wait is not None:
            saga = _until_ended(api, saga, began + wait)
    _print_outcome(saga, as_json=json_)
    if wait is not None and saga["status"] != Status.COMPLETED:
        raise typer.Exit(ExitCode.OTHERWISE)


def list_(
    status: Annotated[
        list[Status] | None,
        typer.Option(case_sensitive=False, help="Only of this status; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="N", help="Only of this saga.")] = None,
    key: Annotated[str | None, typer.Option(metavar="K", help="Only with this key.")] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only those begun so long ago: 90s, 10m, 2h, 7d."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="C", help="Go on where the last list ended.")
    ] = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """List runs, newest first."""
    with connect(url) as api:
        page = api.get(
            "/sagas",
            status=[it.value for it in status] if status else None,
            name=name,
            key=key,
            older_than=None if older_than is None else _seconds(older_than),
            limit=limit,
            cursor=cursor,
        )
    if json_:
        print_json(page)
        return
    print_table(
        ("id", "saga", "status", "waits for", "key", "created", "ended"),
        (
            (
                saga["id"],
                f"{saga['name']} v{saga['version']}",
                status_text(saga),
                saga.get("waits_for"),
                saga["key"],
                saga["created_at"],
                saga["ended_at"],
            )
            for saga in page["items"]
        ),
    )
    if page["next_cursor"]:
        print_line(f"more: the same command with --cursor {page['next_cursor']}")


def show(
    instance_id: InstanceId,
    history: Annotated[
        bool, typer.Option("--history", help="Also what happened to it, oldest first.")
    ] = False,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Show a run: its state, its steps, and what can be done to it now."""
    with connect(url) as api:
        saga: dict[str, Any] = api.get(f"/sagas/{quote(instance_id, safe='')}")
        entries = list(_history(api, saga["id"])) if history else []
    if json_:
        print_json({**saga, "history": entries} if history else saga)
        return
    if saga["id"] != instance_id:
        print_line(f"{instance_id} began no run of its own: this one was active already")
    _print_saga(saga)
    if history:
        print_line("")
    for entry in entries:
        print_line(entry_line(entry))


def _input(text: str | None, file: str | None) -> bytes:
    """The JSON object that was given, as it was written. Raises CommandError."""
    if text is not None and file is not None:
        raise _bad_input("it was given twice", "give either INPUT-JSON or --input FILE")
    if file is None:
        content = (text or "{}").encode("utf-8", "surrogateescape")
    else:
        try:
            content = _read(file)
        except OSError as error:
            raise _bad_input(str(error), "--input FILE, or --input - for stdin") from error
    if len(content) > _MOST_INPUT:
        raise _bad_input(
            f"it has more than {_MOST_INPUT} bytes", "put large things elsewhere, and name them"
        )
    example = """sagabox start NAME '{"field": "value"}'"""
    try:
        value = strict_json.check(content)
    except ValueError as error:
        raise _bad_input(str(error), example) from error
    if not isinstance(value, dict):
        raise _bad_input("it is JSON, but not an object", example)
    return content


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(_MOST_INPUT + 1)
    with Path(file).open("rb") as opened:
        return opened.read(_MOST_INPUT + 1)


def _bad_input(why: str, next_step: str) -> CommandError:
    return CommandError("the saga's input cannot be used", why, next_step)


def _seconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise CommandError(
            f"{safe(text)} is no age",
            "it must be a whole number with s, m, h or d behind it",
            "sagabox list --older-than 10m",
        )
    return int(match[1]) * _SECONDS[match[2]]


def _moment(text: str | None) -> str | None:
    """The time, checked. Raises CommandError."""
    try:
        return None if text is None else written(moment(text))
    except ValueError as error:
        raise CommandError(
            f"{safe(text)} is no time to begin",
            str(error),
            "sagabox start NAME --begin-at 2030-01-31T12:00:00Z",
        ) from error


def _with_names(api: Api, error: CommandError) -> CommandError:
    """The error; if it is about an unknown saga, with the names of the known ones."""
    if error.code != "unknown-saga":
        return error
    try:
        names = sorted({safe(it["name"]) for it in api.get("/definitions")["items"]})
    except CommandError:
        return error
    known = " | ".join(f"sagabox start {name}" for name in names) or error.next_step
    return CommandError(
        error.happened, error.why, known, exit_code=error.exit_code, code=error.code
    )


def _until_ended(
    api: Api,
    saga: dict[str, Any],
    until: float,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Wait for the end of the run; the run then, or as it is when the time is up."""
    while saga["ended_at"] is None and (left := until - time.monotonic()) > 0:
        pause(min(_LOOK, left))
        saga = api.get(f"/sagas/{saga['id']}")
    return saga


def _history(api: Api, instance_id: str) -> Iterator[dict[str, Any]]:
    after: str | None = None
    for _ in range(_MOST_PAGES):
        page = api.get(f"/sagas/{instance_id}/history", after=after, limit=200)
        yield from page["items"]
        after = page["next_cursor"]
        if after is None:
            return


def _print_outcome(saga: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(saga)
    else:
        print_line(f"{saga['id']}  {saga['name']} v{saga['version']}: {outcome(saga)}")


def _print_saga(saga: dict[str, Any]) -> None:
    print_fields(
        [
            ("id", saga["id"]),
            ("saga", f"{saga['name']} v{saga['version']}"),
            ("status", saga["status"]),
            ("paused", "yes" if saga["paused"] else None),
            ("parked", saga["parked"]),
            ("key", saga["key"]),
            ("originator", saga["originator"]),
            ("begins", saga["begin_at"]),
            ("created", saga["created_at"]),
            ("updated", saga["updated_at"]),
            ("ended", saga["ended_at"]),
            ("state", strict_json.dumps(saga["state"]).decode()),
            ("because", _cause(saga)),
            ("not undone", ", ".join(saga["not_undone"])),
            *(("stray effect", _stray(it)) for it in saga.get("stray_effects", ())),
        ]
    )
    print_line("")
    print_table(
        ("step", "kind", "status", "attempts", "participant", "awaits", "reason"),
        (
            (
                step["name"],
                step["kind"],
                step["status"],
                step["attempts"],
                step["participant"],
                awaits(step["awaited"]),
                step["reason"],
            )
            for step in saga["steps"]
        ),
    )
    print_waiting(saga)
    if saga["allowed"]:
        print_line("")
        print_line("possible now:")
        for verb in saga["allowed"]:
            print_line(f"  {operator_command(saga['id'], verb)}")


def _stray(effect: Mapping[str, Any]) -> str:
    return f"{effect['step']}, command {effect['command_id']}, told at {effect['at']}"


def _cause(saga: Mapping[str, Any]) -> str | None:
    cause = saga["cause"]
    return None if cause is None else f"{cause['code']}: {cause['reason']}"
