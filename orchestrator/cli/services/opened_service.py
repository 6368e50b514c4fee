"""A service whose database a command works on, without running it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.cli.services.run import find_service

if TYPE_CHECKING:
    from outbox.service.service import Service


@asynccontextmanager
async def opened_service(
    command: str, named: str, database: str | None
) -> AsyncIterator[Service[Any]]:
    """The service of that module, or with a database the one of that name, for `sagabox COMMAND`.
    Its tables are there. Raises CommandError, InvalidSettings and SchemaError."""
    from sqlalchemy import Engine

    from orchestrator.cli.services.opening import explained

    if database is None:
        service = _with_module(command, named)
    else:
        service = _without_module(command, named, database)
    try:
        with explained(service.name, "start the database, or correct its address"):
            await service.check_tables()
            yield service
    finally:
        await service.engine.dispose()
        if isinstance(engine := service.sessions.kw["bind"], Engine):
            engine.dispose()


def _with_module(command: str, named: str) -> Service[Any]:
    from outbox.chassis.settings import InvalidSettings

    try:
        return find_service(named, by=f"sagabox {command} was given")
    except InvalidSettings as error:
        step = f"{error.next_step}; or give the service's own name and its --database URL"
        raise InvalidSettings(error.problem, next_step=step) from error


def _without_module(command: str, name: str, database: str) -> Service[Any]:
    from orchestrator.cli.services.database_address import database_address
    from orchestrator.cli.services.opening import open_for
    from outbox.service.service import Service

    url = database_address(
        name, database, option="--database ", without_file=lambda path: f"correct {path}"
    )
    opened = open_for(command, url)
    return Service(name, opened.sessions, tables=opened.tables)
