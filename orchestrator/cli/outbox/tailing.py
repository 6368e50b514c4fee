"""`sagabox outbox tail`: what comes into an outbox and leaves it."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.outbox.opened import Opened, within
from orchestrator.cli.outbox.options import (
    DatabaseUrl,
    Destination,
    Filters,
    Key,
    ServiceName,
    Type,
    age_in,
)
from orchestrator.cli.terminal.output import Json, print_json, print_line, print_paragraph

if TYPE_CHECKING:
    from outbox.operations.tail import Happening

_MOST = 10_000


def tail(
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    for_: Annotated[
        timedelta,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=age_in,
            show_default="10m",
            help="How long to watch: 90s, 45m.",
        ),
    ] = timedelta(minutes=10),
    most: Annotated[
        int, typer.Option(min=1, max=_MOST, help="End after so many happenings.")
    ] = 1000,
    every: Annotated[
        float, typer.Option(min=0.1, max=60.0, help="Seconds between two looks.")
    ] = 0.5,
    json_: Json = False,
) -> None:
    """Tell what comes and what leaves, until Ctrl-C.

    It compares looks at the tables: a message that comes and leaves between two looks is not seen.
    """
    filters = Filters(destination, type_, key)
    told: list[dict[str, Any]] = []
    with contextlib.suppress(KeyboardInterrupt):
        within(
            service,
            database,
            lambda of: _watch(of, filters, told, for_.total_seconds(), most, every, json_),
        )
    if json_:
        print_json({"happenings": told})
    else:
        print_line(f"{len(told)} told")


async def _watch(
    of: Opened,
    filters: Filters,
    told: list[dict[str, Any]],
    seconds: float,
    most: int,
    every: float,
    is_silent: bool,
) -> None:
    import asyncio

    from outbox.operations.results import as_json

    clock = of.service.clock
    compared = of.operations.new_tail(await filters.selection(of.operations, clock.now()))
    end = clock.monotonic() + seconds
    while True:
        for happening in await of.operations.tail(compared):
            told.append(as_json(happening))
            if not is_silent:
                print_paragraph(_line(happening))
            if len(told) == most:
                return
        left = end - clock.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(every, left))


def _line(it: Happening) -> str:
    what = f"  {it.type}" if it.type else ""
    why = f": {it.reason}" if it.reason else ""
    at = it.at.strftime("%H:%M:%S")
    return f"{at}  {it.move.value:6}  {it.id}  {it.destination}  {it.key}{what}{why}"
