"""The terminal's side of the migrations: arguments in, sentences out.

Exit codes: 0 all is well; 1 `check` found something; 2 wrong usage, or an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from migrations import commands, telling
from migrations.commands import Findings, Standing, Waiting
from migrations.databases import (
    Database,
    database_at,
    database_of,
    tables_in_environment,
    wait_for_server,
)
from migrations.environment import Dialect
from migrations.errors import MigrationError
from migrations.history import BASE, history_of
from migrations.services import SERVICES, Service, service_named
from outbox.clock import SystemClock

T = TypeVar("T")

ALL = "all"


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MigrationError as error:
            telling.report(error)
            raise typer.Exit(2) from error


main = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help=(
        "The services' databases: bring them up to date, look where they stand, compare them "
        "with the code.\n\n"
        "Each service has a database and a history of its own. Its address is taken from "
        "--database, or else from "
        f"{' or '.join(it.variable for it in SERVICES.values())}, as postgresql://... or "
        "sqlite:///path."
    ),
)

_SERVICES = f"{'|'.join(SERVICES)}|{ALL}"
_OneService = Annotated[str, typer.Argument(metavar="|".join(SERVICES), help="Which service.")]
_Services = Annotated[
    str,
    typer.Argument(
        metavar=f"[{_SERVICES}]", help=f"Which service; {ALL} is each one that has an address."
    ),
]
_Address = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", help="The service's database, in place of the variable's."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LockTimeout = Annotated[
    float,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="How long a revision waits for a table that is in use (PostgreSQL).",
    ),
]

_Wait = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Wait up to so long for a PostgreSQL server that does not take connections yet.",
    ),
]


@main.command()
def upgrade(
    service: _Services = ALL,
    revision: Annotated[str, typer.Argument(help="An id, head, or +N.")] = "head",
    database: _Address = None,
    lock_timeout: _LockTimeout = commands.LOCK_TIMEOUT,
    wait: _Wait = None,
) -> None:
    """Bring databases up to a revision. Rows are kept; an error leaves a database as it was."""
    clock = SystemClock()

    async def work(one: Service, at: Database) -> None:
        waiting = _waiting(one, lock_timeout)
        if wait is not None:
            await wait_for_server(at, wait, clock=clock, tell=waiting.tell)
        moved = await commands.upgrade(one, at, revision, clock=clock, waiting=waiting)
        telling.tell_moved(one, moved)

    _finish(_each(service, database, work))


# -1 is a revision here, and no option.
@main.command(context_settings={"ignore_unknown_options": True})
def downgrade(
    service: _Services,
    revision: Annotated[str, typer.Argument(help="An id, base, or -N.")],
    database: _Address = None,
    yes_delete_data: Annotated[
        bool,
        typer.Option("--yes-delete-data", help="Go on where the downgrade deletes what is there."),
    ] = False,
    lock_timeout: _LockTimeout = commands.LOCK_TIMEOUT,
) -> None:
    """Bring databases back to an earlier revision.

    Where that would delete rows or values, the command says which, and changes nothing, unless
    --yes-delete-data is given.
    """
    clock = SystemClock()

    async def work(one: Service, at: Database) -> None:
        moved = await commands.downgrade(
            one,
            at,
            revision,
            clock=clock,
            delete_data=yes_delete_data,
            waiting=_waiting(one, lock_timeout),
        )
        telling.tell_moved(one, moved)

    _finish(_each(service, database, work))


@main.command()
def current(service: _Services = ALL, database: _Address = None, as_json: _Json = False) -> None:
    """Show at which revision databases stand."""
    found: list[tuple[Service, Database, Standing]] = []

    async def work(one: Service, at: Database) -> None:
        found.append((one, at, await commands.current(one, at)))

    failed = _each(service, database, work)
    if as_json:
        telling.print_json(
            [{"service": one.name, "database": str(at), **asdict(it)} for one, at, it in found]
        )
    else:
        for one, at, standing in found:
            typer.echo(f"{one.name}: {telling.in_words(standing)}   {at}")
    _finish(failed)


@main.command()
def history(service: _Services = ALL, as_json: _Json = False) -> None:
    """List the revisions of a service, oldest first. Needs no database."""
    services = list(SERVICES.values()) if service == ALL else [service_named(service)]
    if as_json:
        telling.print_json(
            [
                {"service": one.name, **asdict(revision)}
                for one in services
                for revision in history_of(one).revisions
            ]
        )
        return
    for one in services:
        for revision in history_of(one).revisions:
            typer.echo(f"{one.name}: {revision.id}  {revision.kind:8}  {revision.summary}")


@main.command()
def check(service: _Services = ALL, database: _Address = None, as_json: _Json = False) -> None:
    """Compare databases with the code, and list each difference; exits with 1 where there is one.

    Finds a database that is not at the newest revision, and every table, column, type, default,
    index, key and constraint that is not as the code's models say. Changes nothing.
    """
    found: list[tuple[Service, Findings]] = []

    async def work(one: Service, at: Database) -> None:
        found.append((one, await commands.check(one, at)))

    failed = _each(service, database, work)
    if as_json:
        telling.print_json(
            [{"service": one.name, "differences": list(it.differences)} for one, it in found]
        )
    else:
        for one, findings in found:
            telling.tell_findings(one, findings)
    _finish(failed)
    if any(it.differences for _, it in found):
        raise typer.Exit(1)


@main.command()
def sql(
    service: _OneService,
    revision: Annotated[
        str, typer.Argument(metavar="[REVISION]", help="An id, or START:END; back if END is older.")
    ] = f"{BASE}:head",
    dialect: Annotated[
        str | None, typer.Option(help="postgresql or sqlite; else that of the database's address.")
    ] = None,
    database: _Address = None,
) -> None:
    """Print the SQL of revisions, for a database administrator to run. Needs no database."""
    if service == ALL:
        raise MigrationError(
            "the SQL of all services is not printed at once",
            "each service has a database of its own, and one script runs in one database",
            f"name one service: {', '.join(SERVICES)}",
        )
    one = service_named(service)
    tables = tables_in_environment()
    script = commands.sql(one, _dialect(one, dialect, database), revision, tables)
    typer.echo(script, nl=False)


def _each(
    name: str, given: str | None, work: Callable[[Service, Database], Coroutine[Any, Any, None]]
) -> bool:
    """Do the work for each service, also after the failure of one. Returns whether one failed."""
    failed = False
    for service, database in _chosen(name, given):
        try:
            asyncio.run(work(service, database))
        except MigrationError as error:
            telling.report(error)
            failed = True
    return failed


def _finish(failed: bool) -> None:
    if failed:
        raise typer.Exit(2)


def _chosen(name: str, given: str | None) -> list[tuple[Service, Database]]:
    if name != ALL:
        service = service_named(name)
        return [(service, database_of(service, given))]
    if given is not None:
        raise MigrationError(
            "--database was given for all services",
            "each service has a database of its own",
            f"name the service whose database it is: {', '.join(SERVICES)}",
        )
    known = [it for it in SERVICES.values() if os.environ.get(it.variable)]
    if not known:
        raise MigrationError(
            "it is not known where any database is",
            f"none of {', '.join(it.variable for it in SERVICES.values())} is set",
            "export the variable of each service, as postgresql://... or sqlite:///path",
        )
    for service in SERVICES.values():
        if service not in known:
            typer.echo(f"{service.name}: left out, {service.variable} is not set", err=True)
    return [(it, database_of(it)) for it in known]


def _dialect(service: Service, wanted: str | None, given: str | None) -> Dialect:
    match wanted:
        case "postgresql" | "sqlite":
            return wanted
        case None:
            address = given or os.environ.get(service.variable)
            return database_at(address).dialect if address else "postgresql"
        case _:
            raise MigrationError(
                f"there is no SQL for {wanted!r}",
                "the services run on postgresql and sqlite",
                f"sagabox migrate sql {service.name} --dialect postgresql",
            )


def _waiting(service: Service, lock_timeout: float) -> Waiting:
    def tell(sentence: str) -> None:
        typer.echo(f"{service.name}: {sentence}", err=True)

    return Waiting(lock_timeout=lock_timeout, tell=tell)
