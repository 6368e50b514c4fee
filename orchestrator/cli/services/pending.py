"""`sagabox pending`: the commands of a service whose answers come later, by way of its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestrator.cli.runs.ids import beginning_in, the_one
from orchestrator.cli.runs.operators import json_given, user_name
from orchestrator.cli.services.opened_service import opened_service
from orchestrator.cli.terminal.errors import EXIT_CODES, CommandError
from orchestrator.cli.terminal.output import Json, print_json, print_line, print_paragraph
from orchestrator.cli.terminal.times import lasting

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from outbox import PendingCommand
    from outbox.inbox.pending.persons import PendingCommands

T = TypeVar("T")

_AT_ONCE = 200

app = typer.Typer(
    no_args_is_help=True,
    help="List the commands of a service whose answers come later; complete, refuse or drop one. "
    "It works on the database of the service, which need not run.",
    epilog=EXIT_CODES,
)

_Service = Annotated[
    str,
    typer.Argument(
        metavar="SERVICE",
        help="The outbox.Service, such as shop.stock:service; with --database its own name, such "
        "as stock.",
    ),
]
_Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The command's id, or as much of its beginning as tells it."),
]
_Reason = Annotated[str, typer.Option(metavar="R", help="Why; it is printed, with who.")]
_Told = Annotated[str, typer.Option(metavar="R", help="Why; the sender is told.")]
_Actor = Annotated[
    str | None, typer.Option(metavar="A", help="Who asks for it; otherwise your user name.")
]
_Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="The database of the service, where its module is not at hand. Nothing can be "
        "completed then, and SAGABOX_PEERS says whom it can answer.",
    ),
]


@app.command("list", epilog=EXIT_CODES)
def list_(
    service: _Service,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="C", help="Go on where the last list ended.")
    ] = None,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """List what is pending, the oldest first."""
    page = _within(
        service,
        database,
        lambda pending, session: pending.list(session, limit=limit, cursor=cursor),
    )
    if json_:
        items = [it.as_json() for it in page.items]
        print_json({"items": items, "next_cursor": page.next_cursor})
        return
    for command in page.items:
        for line in pending_lines(command):
            print_paragraph(line)
    if not page.items:
        print_line("nothing is pending")
    if page.next_cursor:
        print_line(f"more: the same command with --cursor {page.next_cursor}")


@app.command(epilog=EXIT_CODES)
def complete(
    service: _Service,
    id: _Id,
    reason: _Reason,
    value: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="The value that the command promises; leave it out for none."
        ),
    ] = None,
    actor: _Actor = None,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Answer that it is done, as the service's own code would."""
    from outbox.errors import InvalidMessage

    given, who = None if value is None else json_given("--value", value), actor or user_name()
    try:
        whole = _about(
            service,
            database,
            id,
            lambda pending, session, whole: pending.complete(
                session, whole, given, actor=who, reason=reason
            ),
        )
    except InvalidMessage as error:
        if value is not None or database is not None:
            raise
        raise CommandError(
            f"{id} promises a value, and no --value was given",
            error.problem,
            f"""sagabox pending complete {service} {id} --value '{{"field": "value"}}' """
            "--reason REASON",
        ) from error
    _tell(whole, "done", who, reason, json_)


@app.command(epilog=EXIT_CODES)
def refuse(
    service: _Service,
    id: _Id,
    reason: _Told,
    code: Annotated[str, typer.Option(metavar="C", help="A short word for programs.")],
    actor: _Actor = None,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Answer "no". What its handler wrote stays: the run undoes a step that has a compensation; for
    any other, take it back by hand first."""
    who = actor or user_name()
    whole = _about(
        service,
        database,
        id,
        lambda pending, session, whole: pending.refuse(
            session, whole, code, actor=who, reason=reason
        ),
    )
    _tell(whole, "refused", who, reason, json_)


@app.command(epilog=EXIT_CODES)
def drop(
    service: _Service,
    id: _Id,
    reason: _Told,
    actor: _Actor = None,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Wait no longer: whether it took effect stays unknown. Its run turns back and undoes it, or is
    STUCK."""
    who = actor or user_name()
    whole = _about(
        service,
        database,
        id,
        lambda pending, session, whole: pending.drop(session, whole, actor=who, reason=reason),
    )
    _tell(whole, "unknown", who, reason, json_)


def pending_lines(command: PendingCommand) -> Iterator[str]:
    """The command in lines for people, with times as they are seen now."""
    now = command.since + command.age
    waits = f"pending for {lasting(command.age)}"
    if command.expected_at is not None and command.is_overdue:
        waits += f", expected {lasting(now - command.expected_at)} ago"
    elif command.expected_at is not None:
        waits += f", expected in {lasting(command.expected_at - now)}"
    yield f"{command.id}  {command.type}"
    yield f"  {waits}: {command.note}" if command.note else f"  {waits}"
    if command.until is not None:
        left = command.until - now
        state = f"for {lasting(left)} more" if left > timedelta() else f"over {lasting(-left)} ago"
        yield f"  call {command.attempt} by {command.holder}, {state}"
    if command.last_error is not None:
        doubt = "in doubt: " if command.is_in_doubt else ""
        yield f"  {doubt}{command.last_error}"
    saga = f" for the saga {command.saga}" if command.saga else ""
    yield f"  asked by {command.source}{saga}"
    if command.undoes:
        yield f"  undoes {', '.join(command.undoes)}"


def _tell(id: str, outcome: str, actor: str, reason: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": id, "outcome": outcome, "actor": actor, "reason": reason})
    else:
        print_line(f"{id} is answered {outcome}, by {actor}: {reason}")


def _about(
    named: str,
    database: str | None,
    typed: str,
    work: Callable[[PendingCommands, Session, str], None],
) -> str:
    """The whole id of the command that was typed, about which the work was done. Raises as
    `_within`."""

    def done(pending: PendingCommands, session: Session) -> str:
        whole = _whole_id(pending, session, typed, named)
        work(pending, session, whole)
        return whole

    return _within(named, database, done)


def _whole_id(pending: PendingCommands, session: Session, typed: str, named: str) -> str:
    beginning = beginning_in(typed)
    if beginning is None:
        return typed
    found: dict[str, str] = {}
    cursor = None
    while True:
        page = pending.list(session, limit=_AT_ONCE, cursor=cursor)
        found |= {it.id: f"{it.id} ({it.type})" for it in page.items}
        if (cursor := page.next_cursor) is None:
            break
    lists = f"sagabox pending list {named}"
    kind = ("pending command", "ids are looked for among what is pending alone", lists)
    return the_one(found, beginning, kind, "sagabox pending VERB SERVICE")


def _within(named: str, database: str | None, work: Callable[[PendingCommands, Session], T]) -> T:
    """The result of the work in one transaction of the service. Raises CommandError, and what the
    library raises."""

    import asyncio

    async def run() -> T:
        from outbox.database.within import in_transaction

        async with opened_service("pending", named, database) as service:
            return await in_transaction(service.sessions, partial(work, service.pending))

    return asyncio.run(run())
