"""Ids as they are typed: whole, or as beginnings that only one id has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from orchestrator.cli.terminal.client import Api
from orchestrator.cli.terminal.errors import CommandError

InstanceId = Annotated[
    str, typer.Argument(metavar="ID", help="The run's id, or as much of its beginning as tells it.")
]

_BEGINNING = re.compile(r"[0-9a-f]{1,8}|[0-9a-f]{8}-[0-9a-f-]{0,26}")
SHOWN = 10
"""The ids that an ambiguous beginning leads to."""


def whole_id(api: Api, typed: str, command: str) -> str:
    """The id of the run that was typed; `command` is the one that asks, such as "sagabox show".

    Raises CommandError where no run's id begins so, and where several do: it names them.
    """
    beginning = beginning_in(typed)
    if beginning is None:
        return typed
    page = api.get("/sagas", id_prefix=beginning, limit=SHOWN + 1)
    found = {it["id"]: _told(it) for it in page["items"]}
    looked = "ids are looked for among all runs, ended ones too"
    return the_one(found, beginning, ("run", looked, "sagabox list"), command)


def beginning_in(typed: str) -> str | None:
    """The beginning of an id that was typed, as ids have it; None for a whole id, and for what is
    none."""
    beginning = typed.lower()
    return beginning if _BEGINNING.fullmatch(beginning) else None


def the_one(
    told: Mapping[str, str], beginning: str, kind: tuple[str, str, str], command: str
) -> str:
    """The one id of those that begins so; `told` has words about each. `kind` is what it is about,
    such as "run", where it is looked for, and the command that lists them.

    Raises CommandError where there is none, and where there are several: it names them.
    """
    noun, looked, lists = kind
    # An older orchestrator does not know the filter, and lists its newest runs.
    found = [it for it in told if it.startswith(beginning)]
    match found:
        case [one]:
            return one
        case []:
            raise CommandError(
                f"there is no {noun} whose id begins with {beginning}", looked, lists
            )
        case _:
            raise CommandError(
                f"the ids of several {noun}s begin with {beginning}",
                ", ".join(told[it] for it in found[:SHOWN])
                + ("" if len(found) <= SHOWN else ", ..."),
                f"{command} ID, with more of one of these",
            )


def path_of(instance_id: str) -> str:
    """The address of the run."""
    return f"/sagas/{quote(instance_id, safe='')}"


def _told(run: dict[str, Any]) -> str:
    return f"{run['id']} ({run['name']} v{run['version']}, {run['status']}, key {run['key']})"
