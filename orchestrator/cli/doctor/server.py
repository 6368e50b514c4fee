"""The versions that work together, and the connections that a server has."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from orchestrator.cli.doctor.asked import Asked
from orchestrator.cli.doctor.findings import Finding, ok, problem, warning

_OLDEST_POSTGRESQL = 14
_PARTS = ("sagabox", "sqlalchemy", "asyncpg", "psycopg", "psycopg2", "aiosqlite")


def of_this_process() -> Finding:
    """The versions of what runs here."""
    found = [f"Python {platform.python_version()}"]
    for part in _PARTS:
        try:
            found.append(f"{part} {version(part)}")
        except PackageNotFoundError:  # drivers are extras
            continue
    return ok("versions", "here", ", ".join(found))


async def of_server(asked: Asked) -> list[Finding]:
    """The version of the database's server."""
    from sqlalchemy import text

    if not asked.is_postgresql:
        told = await asked.connection.scalar(text("SELECT sqlite_version()"))
        return [ok("versions", asked.name, f"SQLite {told}")]
    told = str(await asked.connection.scalar(text("SHOW server_version")))
    major = int(await asked.connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
    if major < _OLDEST_POSTGRESQL:
        step = f"upgrade the server: {_OLDEST_POSTGRESQL} is the oldest that is supported"
        return [problem("versions", asked.name, f"PostgreSQL {told}", step)]
    return [ok("versions", asked.name, f"PostgreSQL {told}")]


async def connections(asked: Asked) -> list[Finding]:
    """Whether the server has connections for one more process of the service."""
    from sqlalchemy import text

    if not asked.is_postgresql:
        return []
    most = int(await asked.connection.scalar(text("SHOW max_connections")) or 0)
    kept = int(await asked.connection.scalar(text("SHOW superuser_reserved_connections")) or 0)
    used = int(await asked.connection.scalar(text("SELECT count(*) FROM pg_stat_activity")) or 0)
    return [budget(asked.name, asked.source.most_connections, most - kept, used)]


async def pooler(asked: Asked) -> list[Finding]:
    """The pooler before the server, if there is one, and whether the service is made for it."""
    from sqlalchemy import Engine

    from outbox.database.address.poolers import before, lacking, lacking_of

    if not asked.is_postgresql or not await asked.connection.run_sync(before):
        return []
    arguments = await asked.connection.run_sync(lacking)
    service = asked.source.service
    if service is not None and isinstance(bind := service.sessions.kw["bind"], Engine):
        arguments = await lacking_of(bind)
    told = "a pooler is before the server"
    if arguments is None:
        told = f"{told}, and statements are not prepared; no process is woken by another"
        return [ok("pooler", asked.name, told)]
    told = f"{told}, and the engine prepares statements, which one in transaction mode mixes up"
    return [warning("pooler", asked.name, told, f"give create_engine(..., {arguments})")]


def budget(name: str, each: int, most: int, used: int) -> Finding:
    """A process opens `each` connections at most; the server has `most`, of which so many are
    used."""
    told = f"a process opens up to {each} of the server's {most} connections; {used} are in use"
    step = "lower SAGABOX_POOL_SIZE and SAGABOX_POOL_OVERFLOW, or raise max_connections"
    if each > most:
        return problem("connections", name, told, step)
    if each > most - used:
        return warning("connections", name, told, step)
    return ok("connections", name, told)
