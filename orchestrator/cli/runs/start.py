"""`sagabox start`: begin a run, and wait for its end where that is asked for."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.runs.outcomes import how_it_stands, outcome
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import CommandError, ExitCode
from orchestrator.cli.terminal.output import Json, print_json, print_paragraph
from orchestrator.cli.terminal.times import YEAR
from outbox.spelling import safe
from outbox.wire import strict_json
from outbox.wire.attributes import moment, written

_KEY = re.compile(r"[!-~]([ -~]*[!-~])?")  # what a header can carry
_LONGEST_PREFER = 30  # seconds that the orchestrator itself waits at most
_LOOK = 0.5  # seconds between two looks after that
_MOST_INPUT = 1024 * 1024  # bytes of a request


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
        float | None,
        typer.Option(min=0, max=YEAR, metavar="SECONDS", help="Wait so long for its end."),
    ] = None,
    begin_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Let it begin then: 2030-01-31T12:00:00Z."),
    ] = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Start a saga.

    With --wait, it waits until the run has ended or is STUCK, and its exit code tells how it
    stands: 0 is COMPLETED.
    """
    content = _input(text, input_)
    headers = {} if idempotency_key is None else {"idempotency-key": _key(idempotency_key)}
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
    if wait is not None:
        raise typer.Exit(how_it_stands(saga))


def _key(text: str) -> str:
    """The key, where a header can carry it. Raises CommandError."""
    if not _KEY.fullmatch(text):
        raise CommandError(
            f"{safe(text)[:100]!r} is no idempotency key",
            "it is made of printable ASCII characters, without a blank at an end",
            "--idempotency-key order-4711",
        )
    return text


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
    """Wait until the run has ended or is STUCK; the run then, or as it is when the time is up."""
    while how_it_stands(saga) is ExitCode.TIME_UP and (left := until - time.monotonic()) > 0:
        pause(min(_LOOK, left))
        saga = api.get(f"/sagas/{saga['id']}")
    return saga


def _print_outcome(saga: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(saga)
    else:
        print_paragraph(f"{saga['id']}  {saga['name']} v{saga['version']}: {outcome(saga)}")
