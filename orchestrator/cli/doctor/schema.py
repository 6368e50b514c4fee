"""The tables of a database: whether its migrations were applied, and the role may use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning
from orchestrator.cli.processes.services import SERVICES

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from outbox.errors import SchemaError

_AREA = "migrations"
_SHOWN = 5


async def migrations(asked: Asked) -> list[Finding]:
    """The library's tables; of the orchestrator and the blog, their own too."""
    if _has_history(asked):
        return await _of_history(asked)
    return await _of_library(asked)


async def rights(asked: Asked) -> list[Finding]:
    """What the role of the connection may do with the tables; SQLite knows no roles."""
    from outbox.database.schema.grants import require_grants
    from outbox.errors import GrantMissing

    if not asked.is_postgresql:
        return []

    def look(connection: Connection) -> None:
        require_grants(connection, asked.name, asked.tables, all_of_owner=_has_history(asked))

    try:
        await asked.connection.run_sync(look)
    except GrantMissing as error:
        return [problem("rights", asked.name, error.problem, error.next_step)]
    return [ok("rights", asked.name, "the role may do what the library does")]


async def missing(asked: Asked) -> SchemaError | None:
    """Why the library's tables cannot be read, if so: then there is nothing else to look at."""
    from outbox.errors import SchemaError
    from outbox.schema import require_tables

    try:
        await asked.connection.run_sync(require_tables, asked.name, asked.tables)
    except SchemaError as error:
        return error
    return None


def _has_history(asked: Asked) -> bool:
    return asked.source.service is None and asked.name in SERVICES


async def _of_history(asked: Asked) -> list[Finding]:
    from orchestrator.cli.processes import bundle

    bundle.put_on_path()
    from migrations.commands import check
    from migrations.databases import database_at
    from migrations.errors import MigrationError
    from migrations.services import service_named

    url = asked.source.engine.url.render_as_string(hide_password=False)
    try:
        found = await check(service_named(asked.name), database_at(url))
    except MigrationError as error:
        return [problem(_AREA, asked.name, f"{error.happened}: {error.why}", error.next_step)]
    if not found.differences:
        return [ok(_AREA, asked.name, "are applied, and agree with the code")]
    return [
        problem(_AREA, asked.name, it, found.next_step) for it in list(found.differences)[:_SHOWN]
    ]


async def _of_library(asked: Asked) -> list[Finding]:
    from outbox.errors import GrantMissing
    from outbox.schema import differences

    error = await missing(asked)
    if isinstance(error, GrantMissing):
        return []  # what is told of the rights
    if error is not None:
        return [problem(_AREA, asked.name, error.problem, error.next_step)]
    found = await asked.connection.run_sync(differences, asked.tables)
    if not found:
        return [ok(_AREA, asked.name, "the library's tables are there")]
    step = "call outbox.schema.upgrade(op, ...) in a new migration, and apply it"
    return [warning(_AREA, asked.name, it, step) for it in found[:_SHOWN]]
