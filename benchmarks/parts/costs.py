"""What a deletion costs beside time: HTTP requests, statements, commits, and bytes of the log and
of what stays on the disk."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.blog.services import Services
from benchmarks.contenders.deletions import CONTENDERS
from benchmarks.contenders.installed import Missing
from benchmarks.figures import Figures
from benchmarks.names import COSTS, row
from benchmarks.parts.deletion import sets
from benchmarks.places import Place
from tests.support.databases.postgres import PostgresServer

_CLIENTS = 64
_STATISTICS_WITHIN = 11.0
"""Seconds after which a session of PostgreSQL that rests has reported what it did."""
_STATEMENT = re.compile(r"LOG:  (?:execute |statement: )")


async def measure(place: Place, figures: Figures, deletions: int) -> None:
    """Of each contender with 64 clients, for one deletion. The requests are those to the blog's
    services; a statement is a round trip to PostgreSQL. What the services do at rest is taken
    off."""
    assert place.server is not None
    async with sets(place, CONTENDERS) as both:
        with _statements_logged(place.server):
            for contender in CONTENDERS:
                blog = both[contender.is_ordinary]
                count = max(_CLIENTS, round(deletions * contender.share))
                try:
                    async with contender.running(blog, place, _CLIENTS) as deleter:
                        articles = await blog.publish(count)
                        at_rest = await _counts(place.server, blog)
                        before = await _counts(place.server, blog)
                        began = time.monotonic()
                        await deleter.delete(articles, _CLIENTS)
                        await blog.until_idle()
                        after = await _counts(place.server, blog)
                        rests = (time.monotonic() - began) / _STATISTICS_WITHIN
                except Missing as error:
                    figures.skipped[contender.name] = str(error)
                    continue
                figures.add(
                    (place.name, COSTS, row(contender.name, _CLIENTS)),
                    {
                        name: max(0, after[name] - it - rests * (it - at_rest[name])) / count
                        for name, it in before.items()
                    },
                )


async def _counts(server: PostgresServer, blog: Services) -> Mapping[str, float]:
    """All of it since the beginning."""
    await asyncio.sleep(_STATISTICS_WITHIN)  # its sessions report only after a rest
    requests = await blog.requests()
    with server.connect() as connection:
        commits, wal, disk = connection.execute(
            "SELECT (SELECT sum(xact_commit) FROM pg_stat_database),"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'),"
            " (SELECT sum(pg_database_size(datname)) FROM pg_database)"
        ).fetchall()[0]
    return {
        "HTTP requests": requests,
        "statements": len(_STATEMENT.findall(server.log())),
        "commits": float(commits),
        "WAL bytes": float(wal),
        "disk bytes": float(disk),
    }


@contextmanager
def _statements_logged(server: PostgresServer) -> Iterator[None]:
    with server.connect() as connection:
        for setting in (
            "log_statement = 'all'",
            # Else those pay for whole pages who come first after a checkpoint.
            "full_page_writes = 'off'",
            "autovacuum = 'off'",
        ):
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with server.connect() as connection:
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute("SELECT pg_reload_conf()")
