"""`sagabox outbox received`: what came by a broker and could not be handled yet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestrator.cli.outbox.opened import Opened, within
from orchestrator.cli.outbox.options import (
    All,
    Cursor,
    DatabaseUrl,
    DryRun,
    Key,
    Limit,
    ServiceName,
    Type,
    age_in,
    moment_before,
)
from orchestrator.cli.outbox.telling import print_page
from orchestrator.cli.terminal.errors import EXIT_CODES
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import Json, print_fields, print_json, print_line
from orchestrator.cli.terminal.times import ago

if TYPE_CHECKING:
    from outbox.operations.received import ReceivedChanged, ReceivedOperations
    from outbox.transports.brokers.held.operators import Selection

T = TypeVar("T")

_COLUMNS = (
    Column("number"),
    Column("key", least=7),
    *map(Column, ("state", "attempts", "next")),
)

app = typer.Typer(
    no_args_is_help=True,
    help="Messages that came by a broker and could not be handled yet: list, show, redrive, drop.",
    epilog=EXIT_CODES,
)


class Standing(StrEnum):
    """The states, as an option has them."""

    WAITING = "waiting"
    BLOCKED = "blocked"
    DEAD = "dead"


_Numbers = Annotated[
    list[int] | None,
    typer.Argument(metavar="NUMBER", help="Their numbers, as the list shows them."),
]
_Source = Annotated[
    str | None, typer.Option("--source", metavar="S", help="Only those that this service sent.")
]
_HeldFor = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        parser=age_in,
        help="Only those that were held before that: 90s, 45m, 12h, 30d.",
    ),
]
_State = Annotated[Standing | None, typer.Option("--state", help="Only those that stand so.")]


@app.command("list", epilog=EXIT_CODES)
def list_(
    service: ServiceName = None,
    database: DatabaseUrl = None,
    type_: Type = None,
    key: Key = None,
    source: _Source = None,
    state: _State = None,
    older_than: _HeldFor = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    json_: Json = False,
) -> None:
    """List them, the first held first. A type is given whole."""

    chosen = _selection(type_, key, source, state)
    now, page = _on(
        service,
        database,
        chosen,
        older_than,
        lambda of, chosen: of.list(chosen, limit=limit, cursor=cursor),
    )
    from outbox.operations.received import message_as_json

    print_page(
        [message_as_json(it) for it in page.items],
        page.next_cursor,
        json_,
        "nothing is held",
        _COLUMNS,
        lambda it: (it["seq"], it["key"], it["state"], it["attempts"], ago(it["next_at"], now)),
        lambda it: [
            *((name, it[name]) for name in ("id", "type", "source", "saga")),
            ("reason", it["last_error"]),
        ],
    )


@app.command(epilog=EXIT_CODES)
def show(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As the list shows it.")],
    service: ServiceName = None,
    database: DatabaseUrl = None,
    json_: Json = False,
) -> None:
    """Show one of them whole, with its headers and its body as they came."""
    from outbox.operations.received import content_as_json, message_as_json, whole_as_json

    _, found = _on(service, database, _selection(), None, lambda of, _: of.one(number))
    if json_:
        print_json(whole_as_json(found))
        return
    content = content_as_json(found)
    print_fields([*message_as_json(found).items(), *found.headers.items()])
    print_line(str(content["body"] or content.get("body_base64", "")))


@app.command(epilog=EXIT_CODES)
def redrive(
    numbers: _Numbers = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    type_: Type = None,
    key: Key = None,
    source: _Source = None,
    state: _State = None,
    older_than: _HeldFor = None,
    all_: All = False,
    as_new: Annotated[
        bool,
        typer.Option(
            "--as-new",
            help="Those numbers, under new ids: the only way for what the inbox called too-old. "
            "What took effect before takes effect again.",
        ),
    ] = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Try them again at once, with all attempts before them.

    Commands of sagas that were given up stay: their step is retried instead. A type is given whole.
    """
    chosen = _selection(type_, key, source, state, numbers)
    _, done = _on(
        service,
        database,
        chosen,
        older_than,
        lambda of, chosen: of.redrive(chosen, as_new=as_new, dry_run=dry_run, everything=all_),
    )
    _tell(done, "tried again", json_)


@app.command(epilog=EXIT_CODES)
def drop(
    numbers: _Numbers = None,
    service: ServiceName = None,
    database: DatabaseUrl = None,
    type_: Type = None,
    key: Key = None,
    source: _Source = None,
    state: _State = None,
    older_than: _HeldFor = None,
    all_: All = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Delete them for good; what waits behind them goes on.

    Commands of sagas that wait stay: their saga waits for the answer. A type is given whole.
    """
    chosen = _selection(type_, key, source, state, numbers)
    _, done = _on(
        service,
        database,
        chosen,
        older_than,
        lambda of, chosen: of.drop(chosen, dry_run=dry_run, everything=all_),
    )
    _tell(done, "deleted", json_)


def _selection(
    type_: str | None = None,
    key: str | None = None,
    source: str | None = None,
    state: Standing | None = None,
    numbers: Sequence[int] | None = None,
) -> Selection:
    from outbox.transports.brokers.held.operators import Selection
    from outbox.transports.brokers.held.rows import State

    found = None if state is None else State(state.value)
    return Selection(type=type_, key=key, source=source, state=found, seqs=numbers or None)


def _on(
    service: str | None,
    database: str | None,
    chosen: Selection,
    older_than: timedelta | None,
    work: Callable[[ReceivedOperations, Selection], Awaitable[T]],
) -> tuple[datetime, T]:
    async def run(of: Opened) -> tuple[datetime, T]:
        from outbox.operations.received import ReceivedOperations

        it = of.service
        operations = ReceivedOperations(it.engine, it.tables, it.clock, it.new_id)
        now = it.clock.now()
        found = replace(chosen, before=moment_before(now, older_than))
        return now, await work(operations, found)

    return within(service, database, run)


def _tell(changed: ReceivedChanged, done: str, as_json_: bool) -> None:
    from outbox.operations.results import as_json

    if as_json_:
        print_json(as_json(changed))
        return
    count = changed.messages
    would = "would be " if changed.is_dry_run else ""
    print_line(f"{'1 message' if count == 1 else f'{count} messages'} {would}{done}")
    for old, new in changed.new_ids.items():
        print_line(f"{old} is the new message {new}")
