"""`sagabox token`: who may call the orchestrator, kept in its database."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestrator.cli.services.own_database import OwnDatabase, opened_orchestrator
from orchestrator.cli.terminal.errors import EXIT_CODES, CommandError
from orchestrator.cli.terminal.output import Json, print_fields, print_json, print_line, print_table
from outbox.chassis.access.routes import Role

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.access.tokens import Token
    from orchestrator.tables import SagaTables

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the tokens that open the orchestrator, by way of its database.",
    epilog=EXIT_CODES,
)

_Name = Annotated[str, typer.Argument(help="Whose token it is; shown in lists.")]


@app.command(epilog=EXIT_CODES)
def create(
    name: _Name,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    expires: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="After so many days it ends; otherwise when revoked."),
    ] = None,
    json_: Json = False,
    database: OwnDatabase = None,
) -> None:
    """Make a token, and print it, this once."""
    from orchestrator.access import tokens
    from outbox.clock import SystemClock

    now = SystemClock().now()
    expires_at = None if expires is None else _after(now, expires)

    async def make(connection: AsyncConnection, tables: SagaTables) -> str:
        return await tokens.create(
            connection, tables, name, role, now=now, expires_at=expires_at, entropy=os.urandom
        )

    secret = _in_database(database, make)
    if json_:
        told = {"name": name, "role": role, "expires_at": _text(expires_at), "token": secret}
        print_json(told)
        return
    print_fields([("token", secret), ("role", role), ("expires", _text(expires_at))])
    print_line("It is not shown again. To use it: export SAGABOX_TOKEN=" + secret)


@app.command("list", epilog=EXIT_CODES)
def list_(json_: Json = False, database: OwnDatabase = None) -> None:
    """List the tokens that were ever made; what they are is kept nowhere."""
    from orchestrator.access import tokens
    from outbox.clock import SystemClock

    now = SystemClock().now()
    found = [_shown(each, now) for each in _in_database(database, tokens.every)]
    if json_:
        print_json({"items": found})
        return
    columns = ("name", "role", "status", "made_at", "expires_at", "revoked_at")
    print_table(columns, ([each[it] for it in columns] for each in found))


@app.command(epilog=EXIT_CODES)
def revoke(name: _Name, json_: Json = False, database: OwnDatabase = None) -> None:
    """End a token and its sessions; the orchestrator knows within seconds."""
    from orchestrator.access import tokens
    from outbox.clock import SystemClock

    async def end(connection: AsyncConnection, tables: SagaTables) -> None:
        await tokens.revoke(connection, tables, name, now=SystemClock().now())

    _in_database(database, end)
    if json_:
        print_json({"revoked": name})
    else:
        print_line(f"{name} opens nothing any more")


def any_token_works(database: str | None = None) -> bool:
    """Whether the orchestrator has a token that opens anything. Raises CommandError, OutboxError
    and OrchestratorError where its database cannot be asked."""
    from orchestrator.access import tokens
    from outbox.clock import SystemClock

    async def ask(connection: AsyncConnection, tables: SagaTables) -> bool:
        return await tokens.any_works(connection, tables, SystemClock().now())

    return _in_database(database, ask)


def _after(now: datetime, days: float) -> datetime:
    try:
        found = now + timedelta(days=days)
    except (OverflowError, ValueError):
        found = now
    if found <= now:
        raise CommandError(
            f"a token cannot expire in {days:g} days",
            "it must be some time from now",
            "--expires 30, or leave it out",
        )
    return found


def _shown(token: Token, now: datetime) -> dict[str, Any]:
    if token.revoked_at is not None:
        status = "revoked"
    else:
        status = "works" if token.works(now) else "expired"
    times = {name: _text(it) for name, it in asdict(token).items() if name.endswith("_at")}
    return {"name": token.name, "role": token.role.value, "status": status, **times}


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _in_database(
    given: str | None, work: Callable[[AsyncConnection, SagaTables], Coroutine[Any, Any, T]]
) -> T:
    import asyncio

    from orchestrator.tables import saga_tables

    async def run() -> T:
        async with (
            opened_orchestrator("token", given) as opened,
            opened.engine.begin() as connection,
        ):
            return await work(connection, saga_tables(opened.tables))

    return asyncio.run(run())
