"""For tests of migrations: histories of their own, and the command as a person types it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from typer.testing import CliRunner

import articles.model
import comments.model
import orchestrator.tables
from migrations import environment
from migrations.cli import main
from migrations.databases import Database as Address
from migrations.databases import database_at
from migrations.services import SERVICES, Service
from tests.support.databases.databases import Database, Kind, Schema

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


def migrated(name: str) -> Schema:
    """A schema for `database_factory`: the service's newest revision, made by its migrations."""
    return _MIGRATED[name]


def _migrated(name: str) -> Callable[[Connection], None]:
    def schema(connection: Connection) -> None:
        environment.upgrade(SERVICES[name], connection, _NEWEST[name], START)

    return schema


_NEWEST = {
    "articles": articles.model.SCHEMA_REVISION,
    "comments": comments.model.SCHEMA_REVISION,
    "orchestrator": orchestrator.tables.SCHEMA_REVISION,
}
_MIGRATED = {name: _migrated(name) for name in SERVICES}


def address(database: Database) -> str:
    """The database's address as a person writes it, without a driver."""
    return database.url.replace("+asyncpg", "").replace("+aiosqlite", "")


def at(database: Database) -> Address:
    """The same for the commands' functions."""
    return database_at(address(database))


@dataclass(frozen=True)
class Told:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def migrate(*arguments: str, **variables: str | None) -> Told:
    """Run `sagabox migrate` within this process; of the services' variables only those given."""
    environment: dict[str, str | None] = {it.variable: None for it in SERVICES.values()}
    result = CliRunner().invoke(main, arguments, env={**environment, **variables})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Told(result.exit_code, result.stdout, result.stderr)


def explained(told: Told) -> tuple[str, str, str]:
    """What happened, why, and what to do next, from the last error that was told."""
    assert told.code == 2, told
    happened, why, next_step = told.err.splitlines()[-3:]
    assert happened.startswith("error: "), told.err
    assert why.startswith("  why:  "), told.err
    assert next_step.startswith("  next: "), told.err
    return happened[7:], why[8:], next_step[8:]


_REVISION = '''"""revision {number} of a test"""

import sqlalchemy as sa
from alembic import op

revision = "articles_{number:04}"
down_revision = "articles_{before:04}"
kind = "{kind}"


def upgrade():
    {up}


def downgrade():
    {down}
'''


class Histories:
    """The history of articles, with revisions added to it, in folders of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(SERVICES["articles"].folder, folder)
        self._number = sum(1 for _ in (folder / "versions").glob("[0-9]*.py"))

    def service(self) -> Service:
        """The articles service with this history."""
        return Service("articles", models="articles.model", folder=self._folder)

    def add(self, up: str, down: str = "pass", kind: str = "expand") -> str:
        """Add a revision; `up` and `down` are statements on one line. Returns its id."""
        self._number += 1
        source = _REVISION.format(
            number=self._number, before=self._number - 1, kind=kind, up=up, down=down
        )
        path = self._folder / "versions" / f"{self._number:04}_test.py"
        path.write_text(source, encoding="utf-8")
        return f"articles_{self._number:04}"


def tables_of(connection: Connection) -> set[str]:
    """The names of the tables."""
    return set(inspect(connection).get_table_names())


def add_article(connection: Connection, number: int, title: str = "a title") -> None:
    """Write a row into `articles`, in plain SQL."""
    identifier = f"00000000-0000-7000-8000-{number:012}"
    if connection.dialect.name == "sqlite":
        identifier = identifier.replace("-", "")
    connection.execute(
        text(
            "INSERT INTO articles (id, title, body, author, version, created_at, updated_at) "
            "VALUES (:id, :title, 'text', 'me', 1, '2030-01-01 12:00:00', '2030-01-01 12:00:00')"
        ),
        {"id": identifier, "title": title},
    )


def titles(connection: Connection) -> list[str]:
    """The titles of all articles, sorted."""
    return list(connection.scalars(text("SELECT title FROM articles ORDER BY title")))


def is_sqlite(database: Database) -> bool:
    """Whether it is a SQLite database."""
    return database.kind is Kind.SQLITE
