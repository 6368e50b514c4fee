"""`sagabox destinations`: the peers of a service, by way of its database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestrator.cli.runs.operators import user_name
from orchestrator.cli.services.opened_service import opened_service
from orchestrator.cli.terminal.errors import EXIT_CODES, CommandError
from orchestrator.cli.terminal.fitting import Column
from orchestrator.cli.terminal.output import Json, print_json, print_line, print_table
from orchestrator.cli.terminal.times import ago

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from outbox.service.service import Service

T = TypeVar("T")

_COLUMNS = (
    Column("destination", least=11),
    *map(Column, ("unsent", "oldest", "held", "dead")),
    Column("state", least=6),
)

app = typer.Typer(
    no_args_is_help=True,
    help="List what waits for each destination of a service; pause one, resume it, or redrive its "
    "dead letters. It works on the database of the service, which need not run.",
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
_Destination = Annotated[str, typer.Argument(metavar="DESTINATION", help="The name of the peer.")]
_Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="The database of the service, where its module is not at hand.",
    ),
]


@app.command("list", epilog=EXIT_CODES)
def list_(service: _Service, json_: Json = False, database: _Database = None) -> None:
    """List the destinations, with what waits for each."""
    from outbox import destinations
    from outbox.chassis.endpoints.backlog import standing

    async def look(of: Service[Any], connection: AsyncConnection) -> tuple[Any, ...]:
        backlogs = await standing(connection, of.tables, of.reached)
        pauses = await destinations.list_paused(connection, tables=of.tables)
        return backlogs, {it.destination: it for it in pauses}, of.clock.now()

    backlogs, pauses, now = _within(service, database, look)
    items = [
        {
            "destination": it.destination,
            "unsent": it.waiting,
            "oldest": _written(it.oldest_waiting),
            "held_keys": it.held_keys,
            "dead": it.dead,
            "paused_since": _written(pauses[it.destination].since) if it.paused else None,
            "reason": pauses[it.destination].reason if it.paused else None,
        }
        for it in backlogs
    ]
    if json_:
        print_json({"items": items})
        return
    print_table(
        _COLUMNS,
        [
            (
                it["destination"],
                it["unsent"],
                ago(it["oldest"], now),
                it["held_keys"],
                it["dead"],
                f"paused {ago(it['paused_since'], now)}" if it["paused_since"] else "",
            )
            for it in items
        ],
        [[("reason", it["reason"])] if it["reason"] else [] for it in items],
    )


@app.command(epilog=EXIT_CODES)
def pause(
    service: _Service,
    destination: _Destination,
    reason: Annotated[str, typer.Option(metavar="R", help="Why, for those who find it paused.")],
    actor: Annotated[
        str | None, typer.Option(metavar="A", help="Who asks for it; otherwise your user name.")
    ] = None,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Send nothing to a destination until it is resumed. Its messages stay, in their order."""
    from outbox import destinations

    told = f"by {actor or user_name()}: {reason}" if reason.strip() else reason

    async def do(of: Service[Any], connection: AsyncConnection) -> bool:
        await _require_relay(of, connection, destination, known=database is None)
        return await destinations.pause(
            connection, destination, reason=told, now=of.clock.now(), tables=of.tables
        )

    done = _within(service, database, do)
    if json_:
        print_json({"destination": destination, "paused": True, "was_paused": not done})
    else:
        print_line(f"{destination} is paused" if done else f"{destination} was paused already")


@app.command(epilog=EXIT_CODES)
def resume(
    service: _Service,
    destination: _Destination,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Send to a destination again, from where it stopped."""
    from outbox import destinations

    async def do(of: Service[Any], connection: AsyncConnection) -> bool:
        return await destinations.resume(connection, destination, tables=of.tables)

    done = _within(service, database, do)
    if json_:
        print_json({"destination": destination, "paused": False, "was_paused": done})
    else:
        print_line(f"{destination} is resumed" if done else f"{destination} was not paused")


@app.command(epilog=EXIT_CODES)
def redrive(
    service: _Service,
    destination: _Destination,
    json_: Json = False,
    database: _Database = None,
) -> None:
    """Send the dead letters of a destination again, under their own ids, the first buried first.
    Commands of sagas and what the receiver called too-old stay."""
    from outbox.operations import dead
    from outbox.operations.selection import MAX_AT_ONCE, Selection

    letters = Selection(destination=destination)

    async def count(of: Service[Any], connection: AsyncConnection) -> int:
        return (await dead.count(connection, of.tables, letters)).others

    async def do(of: Service[Any], connection: AsyncConnection) -> int:
        return await dead.redrive_some(connection, of.tables, letters)

    total = 0
    # No more than what was found: what is sent again may die again meanwhile.
    for _ in range(_within(service, database, count) // MAX_AT_ONCE + 1):
        moved = _within(service, database, do)
        total += moved
        if moved < MAX_AT_ONCE:
            break
    if json_:
        print_json({"destination": destination, "redriven": total})
    else:
        print_line(f"{total} sent again to {destination}")


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


async def _require_relay(
    of: Service[Any], connection: AsyncConnection, destination: str, *, known: bool
) -> None:
    """Raises CommandError where no relay would heed the pause: in an orchestrator, whose nodes send
    by themselves, and for a name that is `known` to be no peer."""
    from sqlalchemy import inspect

    names = await connection.run_sync(
        lambda it: inspect(it).get_table_names(schema=of.tables.schema)
    )
    if of.tables.name("saga_batch") in names:
        raise CommandError(
            f"{destination} cannot be paused for {of.name}",
            "an orchestrator sends its commands by its nodes, which know no pause of a participant",
            "sagabox pause SAGA --reason REASON",
        )
    if known and destination not in of.reached:
        peers = ", ".join(sorted(of.reached)) or "none"
        raise CommandError(
            f"{destination} cannot be paused",
            f"{of.name} has no peer of that name; it has: {peers}",
            "sagabox destinations list SERVICE",
        )


def _within(
    named: str,
    database: str | None,
    work: Callable[[Service[Any], AsyncConnection], Awaitable[T]],
) -> T:
    """The result of the work in one transaction of the service. Raises CommandError, and what the
    library raises."""
    import asyncio

    async def run() -> T:
        async with (
            opened_service("destinations", named, database) as service,
            service.engine.begin() as connection,
        ):
            return await work(service, connection)

    return asyncio.run(run())
