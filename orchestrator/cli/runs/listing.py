"""`sagabox list`: the runs, newest first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.client import Url, connect
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import (
    Json,
    print_command,
    print_json,
    print_line,
    print_table,
)
from orchestrator.cli.terminal.times import ago
from orchestrator.machine.instance import Status
from outbox.spelling import safe

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9})([smhd]?)")
_COLUMNS = (
    Column("id", of_ids=True),
    Column("saga", least=10),
    Column("status"),
    Column("waits/ended"),
    Column("key", least=7),
    Column("begun"),
)


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
    """List runs, newest first. Where the terminal is narrow, an id is cut to a beginning that the
    other commands take, too."""
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
        now = api.now
    if json_:
        print_json(page)
        return
    print_table(_COLUMNS, [_row(saga, now) for saga in page["items"]])
    if page["next_cursor"]:
        print_line("more: the same command with")
        print_command(f"--cursor {page['next_cursor']}")


def _row(saga: Mapping[str, Any], now: datetime) -> tuple[object, ...]:
    return (
        saga["id"],
        f"{saga['name']} v{saga['version']}",
        saga["status"],
        ago(saga["ended_at"], now) or ("paused" if saga["paused"] else saga.get("waits_for")),
        saga["key"],
        ago(saga["created_at"], now),
    )


def _seconds(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise CommandError(
            f"{safe(text)} is no age",
            "it must be a whole number with s, m, h or d behind it",
            "sagabox list --older-than 10m",
        )
    return int(match[1]) * _SECONDS[match[2]]
