"""The tables of a database: whether its migrations were applied."""

from __future__ import annotations

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning
from orchestrator.cli.processes.services import SERVICES

_AREA = "migrations"
_SHOWN = 5


async def migrations(asked: Asked) -> list[Finding]:
    """The library's tables; of the orchestrator and the blog, their own too."""
    if asked.source.service is None and asked.name in SERVICES:
        return await _of_history(asked)
    return await _of_library(asked)


async def has_tables(asked: Asked) -> bool:
    """Whether the library's tables can be read: without them there is nothing else to look at."""
    return all(it.verdict != "problem" for it in await _of_library(asked))


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
    from outbox.errors import SchemaError
    from outbox.schema import differences, require_tables

    try:
        await asked.connection.run_sync(require_tables, asked.name)
    except SchemaError as error:
        return [problem(_AREA, asked.name, error.problem, error.next_step)]
    found = await asked.connection.run_sync(differences)
    if not found:
        return [ok(_AREA, asked.name, "the library's tables are there")]
    step = "call outbox.schema.upgrade(op, ...) in a new migration, and apply it"
    return [warning(_AREA, asked.name, it, step) for it in found[:_SHOWN]]
