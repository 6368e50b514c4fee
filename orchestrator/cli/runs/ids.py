"""The ids of runs as they are typed: whole, or as beginnings that only one run's id has."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.terminal.client import Api
from orchestrator.cli.terminal.errors import CommandError

InstanceId = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or as much of its beginning as tells it.")
]

_BEGINNING = re.compile(r"[0-9a-f]{1,8}|[0-9a-f]{8}-[0-9a-f-]{0,26}")
_SHOWN = 10  # runs that an ambiguous beginning leads to


def whole_id(api: Api, typed: str, command: str) -> str:
    """The id of the run that was typed; `command` is the one that asks, such as "sagabox show".

    Raises CommandError where no run's id begins so, and where several do: it names them.
    """
    beginning = typed.lower()
    if not _BEGINNING.fullmatch(beginning):
        return typed
    page = api.get("/sagas", id_prefix=beginning, limit=_SHOWN + 1)
    # An older orchestrator does not know the filter, and lists its newest runs.
    found = [it for it in page["items"] if it["id"].startswith(beginning)]
    match found:
        case [one]:
            return str(one["id"])
        case []:
            raise CommandError(
                f"there is no run whose id begins with {beginning}",
                "ids are looked for among all runs, ended ones too",
                "sagabox list",
            )
        case _:
            raise CommandError(
                f"the ids of several runs begin with {beginning}",
                ", ".join(map(_told, found[:_SHOWN])) + ("" if len(found) <= _SHOWN else ", ..."),
                f"{command} ID, with more of one of these",
            )


def path_of(instance_id: str) -> str:
    """The address of the run."""
    return f"/sagas/{quote(instance_id, safe='')}"


def _told(run: dict[str, Any]) -> str:
    return f"{run['id']} ({run['name']} v{run['version']}, {run['status']}, key {run['key']})"
