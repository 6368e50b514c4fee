"""The options of `sagabox outbox`: whose outbox, and which of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.runs.ids import SHOWN, beginning_in, the_one
from orchestrator.cli.terminal.errors import CommandError
from orchestrator.cli.terminal.times import duration

if TYPE_CHECKING:
    from outbox.operations.operations import Operations
    from outbox.operations.selection import Selection


def age_in(text: str | timedelta) -> timedelta:
    """The time that an option says. Raises BadParameter."""
    if isinstance(text, timedelta):
        return text
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


ServiceName = Annotated[
    str | None,
    typer.Option(
        "--service",
        metavar="NAME",
        help="The outbox.Service, such as shop.stock:service; or the service's own name, with "
        "--database, or with SAGABOX_DATABASE_URL_NAME set.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", help="The database of the service; it says its name itself."
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        help="The messages' ids, or as much of their beginnings as tells them; all or none are "
        "changed.",
    ),
]
Destination = Annotated[
    str | None, typer.Option("--destination", metavar="D", help="Only those for this peer.")
]
Type = Annotated[
    str | None,
    typer.Option(
        "--type", metavar="T", help="Only those of this type, such as stock.shipped.v1 or stock.*"
    ),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="K", help="Only those of this order key.")
]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        parser=age_in,
        help="Only those that were buried, or else made, before that: 90s, 45m, 12h, 30d.",
    ),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option("--newer-than", metavar="AGE", parser=age_in, help="Only those since then."),
]
All = Annotated[bool, typer.Option("--all", help="All of them, without any filter.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing: count what would be changed.")
]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option(metavar="C", help="Go on where the last list ended.")]


@dataclass(frozen=True)
class Filters:
    """The filters of a command, as they were typed."""

    destination: str | None = None
    type: str | None = None
    key: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    ids: Sequence[str] = ()

    async def selection(
        self, operations: Operations, now: datetime, *, scheduled: bool = False
    ) -> Selection:
        """The selection that they are at that time. Raises CommandError where the beginning of an
        id tells no message, or several."""
        from outbox.operations.selection import Selection

        whole = [await _whole_id(operations, it, scheduled) for it in self.ids]
        return Selection(
            destination=self.destination,
            type=self.type,
            key=self.key,
            ids=tuple(dict.fromkeys(whole)),
            older_than=moment_before(now, self.older_than),
            newer_than=moment_before(now, self.newer_than),
        )


def moment_before(now: datetime, age: timedelta | None) -> datetime | None:
    """The moment so long before `now`; None for None. Raises CommandError where there is none."""
    if age is None:
        return None
    try:
        return now - age
    except OverflowError:
        raise CommandError(
            "that age is before the year 1", "no message is so old", "give a smaller age"
        ) from None


async def _whole_id(operations: Operations, typed: str, scheduled: bool) -> str:
    from outbox.chassis.http.input_types import ids_that_begin

    beginning = beginning_in(typed)
    if beginning is None:
        return typed
    first, last = ids_that_begin(beginning)
    found = await operations.ids_between(first, last, scheduled_ones=scheduled, most=SHOWN + 1)
    told = {id: f"{id} (for {destination})" for id, destination in found.items()}
    if scheduled:
        noun, looked = "scheduled message", "ids are looked for among scheduled messages alone"
        lists = "sagabox outbox schedule"
    else:
        noun = "such message"
        looked = "ids are looked for among dead letters and messages that hold their keys"
        lists = "sagabox outbox dead, or sagabox outbox held"
    return the_one(told, beginning, (noun, looked, lists), "sagabox outbox VERB")
