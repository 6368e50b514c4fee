"""`sagabox outbox schedule`: messages that do not leave before a time."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.outbox.opened import selected
from orchestrator.cli.outbox.options import (
    All,
    Cursor,
    DatabaseUrl,
    Destination,
    DryRun,
    Filters,
    Ids,
    Key,
    Limit,
    NewerThan,
    OlderThan,
    ServiceName,
    Type,
    age_in,
)
from orchestrator.cli.outbox.telling import as_items, print_changed, print_page
from orchestrator.cli.terminal.errors import EXIT_CODES, CommandError
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import Json
from orchestrator.cli.terminal.times import ago, to_the_second

if TYPE_CHECKING:
    from outbox.operations.operations import Operations
    from outbox.operations.results import Changed
    from outbox.operations.selection import Selection

_COLUMNS = (Column("id"), Column("for", least=7), Column("due"))

app = typer.Typer(
    no_args_is_help=True,
    help="Messages that do not leave before a time: list them, move them in time, or drop them.",
    epilog=EXIT_CODES,
)


@app.command("list", epilog=EXIT_CODES)
def list_(
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    json_: Json = False,
) -> None:
    """List scheduled messages, the first due first."""
    filters = Filters(destination, type_, key, older_than, newer_than)

    now, page = selected(
        service,
        database,
        filters,
        lambda of, chosen, _: of.scheduled(chosen, limit=limit, cursor=cursor),
    )
    print_page(
        as_items(page.items),
        page.next_cursor,
        json_,
        "nothing is scheduled",
        _COLUMNS,
        lambda it: (it["id"], it["destination"], ago(it["due_at"], now)),
        lambda it: [
            ("due", to_the_second(it["due_at"])),
            ("type", it["type"]),
            ("key", it["key"]),
        ],
    )


@app.command(epilog=EXIT_CODES)
def move(
    ids: Ids = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The new time, such as 2030-01-31T12:00:00Z; or now."),
    ] = None,
    in_: Annotated[
        timedelta | None,
        typer.Option(
            "--in", metavar="TIME", parser=age_in, help="From now on: 90s, 45m, 12h, 30d."
        ),
    ] = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Let scheduled messages leave at another time. Age counts from when they were made."""
    filters = Filters(destination, type_, key, older_than, newer_than, ids or ())
    if (at is None) == (in_ is None):
        raise CommandError(
            "the new time is not clear", "one of --at and --in is needed", "--at now, or --in 2h"
        )

    def work(of: Operations, chosen: Selection, now: datetime) -> Awaitable[Changed]:
        due = now + in_ if in_ is not None else _moment(at or "", now)
        return of.reschedule(chosen, due, dry_run=dry_run, everything=all_)

    _, done = selected(service, database, filters, work, scheduled=True)
    print_changed(done, "moved", json_)


@app.command(epilog=EXIT_CODES)
def drop(
    ids: Ids = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    destination: Destination = None,
    type_: Type = None,
    key: Key = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    all_: All = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Delete scheduled messages for good. Age counts from when they were made."""
    filters = Filters(destination, type_, key, older_than, newer_than, ids or ())

    _, done = selected(
        service,
        database,
        filters,
        lambda of, chosen, _: of.drop_scheduled(chosen, dry_run=dry_run, everything=all_),
        scheduled=True,
    )
    print_changed(done, "deleted", json_)


def _moment(text: str, now: datetime) -> datetime:
    from outbox.wire.attributes import moment

    if text == "now":
        return now
    try:
        return moment(text)
    except ValueError as error:
        raise CommandError(
            f"--at {text[:50]!r} is no time", f"it {error}", "--at 2030-01-31T12:00:00Z"
        ) from None
