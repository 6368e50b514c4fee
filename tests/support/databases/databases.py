"""A fresh database for each test: made once per session and schema, then copied.

On PostgreSQL the copy is `CREATE DATABASE ... TEMPLATE`, on SQLite that of a file. What is in a
template is up to a *schema*: a function that is handed a synchronous connection within a
transaction, or the name of one in `SCHEMAS`.
"""

from __future__ import annotations

import enum
import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.databases.postgres import PostgresServer

Schema = Callable[[Connection], None]
AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)


class Kind(enum.StrEnum):
    """Which database management system a `Database` lives in."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True)
class Database:
    """One database that belongs to one test."""

    kind: Kind
    url: str
    """For an AsyncEngine: aiosqlite or asyncpg."""
    sync_url: str
    """For an Engine: sqlite3 or psycopg."""
    server: PostgresServer | None = None
    """Where it lives; None on SQLite."""

    @property
    def path(self) -> Path:
        """The file. Raises ValueError on PostgreSQL."""
        if self.kind is not Kind.SQLITE:
            raise ValueError("only a SQLite database is a file")
        return Path(self.sync_url.removeprefix("sqlite:///"))


class Templates(Protocol):
    """Makes databases of one kind, and removes them."""

    def fresh(self, schema: Schema) -> Database:
        """A new database with that schema."""

    def drop(self, database: Database) -> None:
        """Remove a database that `fresh` made."""


def _nothing(_connection: Connection) -> None:
    pass


def _outbox(connection: Connection) -> None:
    from outbox.tables import metadata

    metadata.create_all(connection)


SCHEMAS: dict[str, Schema] = {"empty": _nothing, "outbox": _outbox}
"""Schemas by name. A conftest adds its own before the first test asks for it."""


def schema_named(schema: Schema | str) -> Schema:
    """The schema itself. Raises LookupError that lists the known names."""
    if not isinstance(schema, str):
        return schema
    if schema not in SCHEMAS:
        known = ", ".join(sorted(SCHEMAS))
        raise LookupError(
            f"there is no schema {schema!r}; tests.support.databases.databases knows: {known}"
        )
    return SCHEMAS[schema]


class SqliteTemplates:
    """Databases that are files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._templates: dict[Schema, Path] = {}
        self._numbers = itertools.count(1)

    def fresh(self, schema: Schema) -> Database:
        """A copy of the template's file."""
        template = self._templates.get(schema) or self._make_template(schema)
        path = self._folder / f"{_label(schema)}_{next(self._numbers)}.db"
        shutil.copyfile(template, path)
        return Database(Kind.SQLITE, f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}")

    def drop(self, database: Database) -> None:
        """Remove the file and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            database.path.with_name(database.path.name + suffix).unlink(missing_ok=True)

    def _make_template(self, schema: Schema) -> Path:
        path = self._folder / f"template_{len(self._templates)}.db"
        _build(f"sqlite:///{path}", schema)
        # The last connection to leave writes the log back, so that the file alone is the database.
        assert not path.with_name(path.name + "-wal").exists(), f"{schema} left a connection open"
        self._templates[schema] = path
        return path


class PostgresTemplates:
    """Databases of one server."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._templates: dict[Schema, str] = {}
        self._numbers = itertools.count(1)

    def fresh(self, schema: Schema) -> Database:
        """A clone of the template database."""
        template = self._templates.get(schema) or self._make_template(schema)
        name = f"{_label(schema)}_{next(self._numbers)}"
        self._server.create_database(name, template)
        urls = self._server.url(name), self._server.url(name, "psycopg")
        return Database(Kind.POSTGRESQL, *urls, self._server)

    def drop(self, database: Database) -> None:
        """Drop the database; connections that killed processes left do not hinder it."""
        self._server.drop_database(database.url.rpartition("/")[2])

    def _make_template(self, schema: Schema) -> str:
        name = f"template_{len(self._templates)}"
        self._server.create_database(name)
        _build(self._server.url(name, "psycopg"), schema)
        self._templates[schema] = name
        return name


def _build(url: str, schema: Schema) -> None:
    engine = configured(create_engine(url))
    try:
        with engine.begin() as connection:
            schema(connection)
    finally:
        engine.dispose()


def _label(schema: Schema) -> str:
    return re.sub(r"\W+", "_", getattr(schema, "__name__", "schema")).strip("_").lower()[:40]


def configured(engine: AnyEngine) -> AnyEngine:
    """The engine, set up as the library wants it."""
    if engine.dialect.name == "sqlite":
        from outbox import sqlite

        sqlite.configure(engine)
    return engine


class Engines:
    """Makes engines for a test, and at its end tells which have not got back what they lent.

    A connection that is still out is a session or a transaction that no code closed: under load the
    pool runs dry.
    """

    def __init__(self) -> None:
        self._out: dict[Engine, int] = {}
        self._asynchronous: list[AsyncEngine] = []

    def asynchronous(self, database: Database, **options: Any) -> AsyncEngine:
        """An AsyncEngine; `options` are those of `create_async_engine`."""
        engine = configured(create_async_engine(database.url, **options))
        self._asynchronous.append(engine)
        self._count(engine.sync_engine)
        return engine

    def synchronous(self, database: Database, **options: Any) -> Engine:
        """An Engine; `options` are those of `create_engine`."""
        engine = configured(create_engine(database.sync_url, **options))
        self._count(engine)
        return engine

    async def close(self) -> None:
        """Close every engine. Raises AssertionError where a connection is still checked out."""
        out = {str(engine.url): count for engine, count in self._out.items() if count}
        for engine in self._asynchronous:
            await engine.dispose()
        for other in self._out:
            other.dispose()
        assert not out, (
            f"connections are still checked out at the end of the test: {out}; "
            "close each session and connection, best by `async with`"
        )

    def _count(self, engine: Engine) -> None:
        self._out[engine] = 0

        @event.listens_for(engine, "checkout")
        def out(*_: object) -> None:
            self._out[engine] += 1

        @event.listens_for(engine, "checkin")
        @event.listens_for(engine, "detach")
        def back(*_: object) -> None:
            self._out[engine] -= 1
