"""`sagabox dead-letters`: messages that the orchestrator gave up, and sending them again."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.runs.ids import SHOWN, beginning_in, the_one
from orchestrator.cli.terminal.client import Api, Url, connect
from orchestrator.cli.terminal.errors import EXIT_CODES
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import (
    Json,
    print_command,
    print_json,
    print_line,
    print_table,
)
from orchestrator.cli.terminal.times import ago

_Destination = Annotated[
    str | None, typer.Option(metavar="D", help="Only those for this participant.")
]
_Limit = Annotated[int, typer.Option(min=1, max=200, help="How many at most.")]
_Cursor = Annotated[str | None, typer.Option(metavar="C", help="Go on where the last list ended.")]

_COLUMNS = (Column("id"), Column("for", least=7), Column("attempts"), Column("died"))

app = typer.Typer(
    help="Messages that the orchestrator gave up. Without a command: list them.",
    epilog=EXIT_CODES,
)


@app.callback(invoke_without_command=True)
def dead_letters(
    ctx: typer.Context,
    destination: _Destination = None,
    limit: _Limit = 50,
    cursor: _Cursor = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Messages that the orchestrator gave up. Without a command: list them."""
    if ctx.invoked_subcommand is None:
        list_(destination, limit, cursor, json_, url)


@app.command("list", epilog=EXIT_CODES)
def list_(
    destination: _Destination = None,
    limit: _Limit = 50,
    cursor: _Cursor = None,
    json_: Json = False,
    url: Url = None,
) -> None:
    """List dead letters, the last buried first."""
    with connect(url) as api:
        page = api.get("/dead-letters", destination=destination, limit=limit, cursor=cursor)
        now = api.now
    if json_:
        print_json(page)
        return
    print_table(
        _COLUMNS,
        [
            (it.get("id"), it.get("destination"), it.get("attempts"), ago(it.get("died_at"), now))
            for it in page["items"]
        ],
        [[(name, it.get(name)) for name in ("type", "saga", "reason")] for it in page["items"]],
    )
    if page["next_cursor"]:
        print_line("more: the same command with")
        print_command(f"--cursor {page['next_cursor']}")


@app.command(epilog=EXIT_CODES)
def redrive(
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...", help="The messages' ids, or as much of their beginnings as tells them."
        ),
    ],
    destination: _Destination = None,
    as_new: Annotated[
        bool,
        typer.Option(
            "--as-new",
            help="Under new ids, and due now: the only way for what the receiver called too-old. "
            "It takes them for new messages: what took effect before takes effect again.",
        ),
    ] = False,
    json_: Json = False,
    url: Url = None,
) -> None:
    """Send dead letters again, under their own ids. A saga's commands are refused: its step is
    retried instead."""
    body: dict[str, object] = {}
    if as_new:
        body["as_new"] = True
    if destination is not None:
        body["destination"] = destination
    with connect(url) as api:
        body["ids"] = [_whole_id(api, it, destination) for it in ids]
        answer = api.post("/dead-letters/redrive", body).body
    if json_:
        print_json(answer)
    else:
        print_line(f"{answer['redriven']} sent again")
        for old, new in answer.get("new_ids", {}).items():
            print_line(f"{old} is the new message {new}")


def _whole_id(api: Api, typed: str, destination: str | None) -> str:
    beginning = beginning_in(typed)
    if beginning is None:
        return typed
    page = api.get("/dead-letters", id_prefix=beginning, destination=destination, limit=SHOWN + 1)
    found = {it["id"]: f"{it['id']} (for {it['destination']})" for it in page["items"]}
    kind = (
        "dead letter",
        "ids are looked for among the dead letters alone",
        "sagabox dead-letters",
    )
    return the_one(found, beginning, kind, "sagabox dead-letters redrive")
