"""Where something is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.names import POSTGRESQL, SLOW_FLUSHES, SQLITE
from tests.support.databases import binaries
from tests.support.databases.databases import (
    Database,
    PostgresTemplates,
    Schema,
    SqliteTemplates,
)
from tests.support.databases.postgres import PostgresServer

_FLUSHES_OF_1_MS = {"commit_delay": 1000, "commit_siblings": 0}


@dataclass(frozen=True)
class Place:
    """One kind of database, by the name under which its figures stand. `url` is that of a database
    for the taking, `fresh` makes others; logs go into `folder`. On PostgreSQL `server` is where
    they are."""

    name: str
    url: str
    fresh: Callable[[Schema], Database]
    folder: Path
    server: PostgresServer | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether its databases are files of SQLite."""
        return self.url.startswith("sqlite")


@contextmanager
def postgresql(folder: Path, *, slow_flushes: bool = False) -> Iterator[Place]:
    """A server of its own with fsync on: a commit that is not written to the disk is no measure of
    anything. With `slow_flushes` each flush takes a millisecond more, as on usual disks."""
    settings: dict[str, str | int] = {"max_connections": 400, "max_wal_size": "4GB"}
    settings |= _FLUSHES_OF_1_MS if slow_flushes else {}
    server = PostgresServer(binaries.from_wheel(), fsync=True, settings=settings)
    try:
        server.create_database("bench")
        url, fresh = server.url("bench"), PostgresTemplates(server).fresh
        name = SLOW_FLUSHES if slow_flushes else POSTGRESQL
        yield Place(name, url, fresh, folder / "postgresql", server)
    finally:
        server.close()


@contextmanager
def sqlite(folder: Path) -> Iterator[Place]:
    """Files in the folder."""
    url = f"sqlite+aiosqlite:///{folder / 'bench.sqlite'}"
    yield Place(SQLITE, url, SqliteTemplates(folder).fresh, folder / "sqlite")
