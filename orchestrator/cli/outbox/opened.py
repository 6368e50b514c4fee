"""The outbox that a command works on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cli.services.opened_service import opened_service
from orchestrator.cli.terminal.errors import CommandError

if TYPE_CHECKING:
    from orchestrator.cli.outbox.options import Filters
    from outbox.operations.operations import Operations
    from outbox.operations.selection import Selection
    from outbox.service.service import Service

T = TypeVar("T")

_COMMAND = "outbox"
_UNNAMED = "service"


@dataclass(frozen=True)
class Opened:
    """One service with its outbox."""

    service: Service[Any]
    operations: Operations


def within(service: str | None, database: str | None, work: Callable[[Opened], Awaitable[T]]) -> T:
    """The result of the work on that outbox. Raises CommandError, and what the library raises."""
    import asyncio

    async def run() -> T:
        async with _opened(service, database) as opened:
            return await work(opened)

    return asyncio.run(run())


def selected(
    service: str | None,
    database: str | None,
    filters: Filters,
    work: Callable[[Operations, Selection, datetime], Awaitable[T]],
    *,
    scheduled: bool = False,
) -> tuple[datetime, T]:
    """The time of the service, and the result of the work on what the filters select; `scheduled`
    says that the ids are those of scheduled messages. Raises as `within`."""

    async def select_first(of: Opened) -> tuple[datetime, T]:
        now = of.service.clock.now()
        selection = await filters.selection(of.operations, now, scheduled=scheduled)
        return now, await work(of.operations, selection, now)

    return within(service, database, select_first)


@asynccontextmanager
async def _opened(named: str | None, database: str | None) -> AsyncIterator[Opened]:
    from orchestrator.cli.services.database_address import variable_of
    from outbox.operations.operations import Operations

    if named is None and database is None:
        raise CommandError(
            "it is not known whose outbox is meant",
            "neither --service nor --database was given",
            "sagabox outbox VERB --service shop.stock:service, or --database URL",
        )
    if named is None:
        assert database is not None, "one of the two is given"
        named = await _name_in(database)
    elif database is None and ":" not in named:
        database = os.environ.get(variable_of(named.replace(".", "_"))) or None
    async with opened_service(_COMMAND, named, database) as service:
        operations = Operations(service.engine, service.tables, service.clock, service.new_id)
        yield Opened(service, operations)


async def _name_in(database: str) -> str:
    """The name of the service that the tables in that database belong to."""
    from sqlalchemy import inspect, select

    from orchestrator.cli.services.database_address import database_address
    from orchestrator.cli.services.opening import explained, open_for
    from outbox.database.engines import reading

    url = database_address(
        _UNNAMED, database, option="--database ", without_file=lambda path: f"correct {path}"
    )
    opened = open_for(_COMMAND, url)
    table = opened.tables.outbox_service
    try:
        with explained("the service", "start the database, or correct its address"):
            async with reading(opened.engine).connect() as connection:
                known = await connection.run_sync(
                    lambda it: inspect(it).has_table(table.name, schema=table.schema)
                )
                name = (await connection.scalar(select(table.c.name))) if known else None
                return name or _UNNAMED
    finally:
        await opened.engine.dispose()
