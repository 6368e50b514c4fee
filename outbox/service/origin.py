"""The id of the database that an orchestrator speaks from, as those hear it that it sends to.

It begins with the id of the tables (`outbox.schema.database_id`), which a copy of the database has
as well. So on PostgreSQL it tells the server and the database there, too: a copy that is put up
beside the original by a dump, or as a template, has another id. A standby has the same one, and so
has a copy of all the server's files. On SQLite a file and its copy are one and the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engines import reading
from outbox.ids import derive
from outbox.wire.settled import EndedSagas

_DATABASE = text("SELECT oid FROM pg_database WHERE datname = current_database()")
_SERVER = text("SELECT system_identifier FROM pg_control_system()")
_TELLS_SERVER = text(
    "SELECT has_function_privilege(to_regprocedure('pg_control_system()')::oid, 'EXECUTE')"
)


async def origin_of(engine: AsyncEngine, database: str) -> str:
    """The id of the database behind the engine, whose tables have the id `database`."""
    async with reading(engine).connect() as connection:
        return await origin_on(connection, database)


async def origin_on(connection: AsyncConnection, database: str) -> str:
    """The same on an open connection."""
    if connection.dialect.name != "postgresql":
        return database
    place = [await connection.scalar(_DATABASE)]
    if await connection.scalar(_TELLS_SERVER):
        place.append(await connection.scalar(_SERVER))
    return derive(database, "place", *map(str, place))


def said_of(
    origin: Callable[[], str | None], settled: Callable[[], EndedSagas | None]
) -> EndedSagas | None:
    """What is said of ended sagas, with the database in which they are."""
    said = settled()
    return None if said is None else replace(said, database=origin())
