"""The common part of every service's env.py: it runs the revisions that a command asked for.

The command brings an open connection in a transaction of its own, and commits. So an upgrade over
several revisions is one transaction: it happens whole or not at all, on SQLite too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from typing import Any, Literal

from alembic import command, context, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import Script
from sqlalchemy import Connection, delete, insert, literal_column

import orchestrator.schema
from migrations.errors import MigrationError
from migrations.history import Kind, kind_of
from migrations.installations import ALEMBIC
from migrations.services import Service
from outbox import schema
from outbox.tables import DEFAULT_TABLES, Tables

Dialect = Literal["postgresql", "sqlite"]

# Alembic finds its running environment through global names: two at once in one process would
# write into each other's database.
_running = threading.Lock()


@dataclass(frozen=True)
class Step:
    """One revision that was applied, or taken back."""

    revision: str
    upward: bool


@dataclass(frozen=True)
class _Online:
    connection: Connection
    now: datetime
    tables: Tables
    steps: list[Step] = field(default_factory=list)

    def record(self, _: MigrationContext, revision: str, kind: Kind) -> None:
        schema.record_revision(self.connection, revision, kind, self.now, tables=self.tables)

    def forget(self, _: MigrationContext, revision: str) -> None:
        schema.forget_revision(self.connection, revision, tables=self.tables)


@dataclass(frozen=True)
class _Offline:
    dialect: Dialect
    tables: Tables
    steps: list[Step] = field(default_factory=list)

    def record(self, script: MigrationContext, revision: str, kind: Kind) -> None:
        row: Mapping[str, Any] = {
            "revision": revision,
            "kind": kind.value,
            "applied_at": literal_column(_NOW[self.dialect].format(len(self.steps))),
        }
        script.execute(insert(self.tables.schema_revision).values(row))

    def forget(self, script: MigrationContext, revision: str) -> None:
        table = self.tables.schema_revision
        script.execute(delete(table).where(table.c.revision == revision))


def upgrade(
    service: Service,
    connection: Connection,
    target: str,
    now: datetime,
    tables: Tables = DEFAULT_TABLES,
) -> list[Step]:
    """Apply the revisions up to `target` in the connection's transaction."""
    job = _Online(connection, now, tables)
    with _prepared(service, job) as config:
        command.upgrade(config, target)
    return job.steps


def downgrade(
    service: Service,
    connection: Connection,
    target: str | None,
    now: datetime,
    tables: Tables = DEFAULT_TABLES,
) -> list[Step]:
    """Take the revisions after `target` back (all of them for None), in the same way."""
    job = _Online(connection, now, tables)
    with _prepared(service, job) as config:
        command.downgrade(config, target or "base")
    return job.steps


def offline(
    service: Service, dialect: Dialect, tables: Tables, start: str | None, end: str | None
) -> str:
    """The SQL script that takes a database from `start` to the later revision `end`."""
    return _offline(command.upgrade, service, dialect, tables, start, end)


def offline_back(
    service: Service, dialect: Dialect, tables: Tables, start: str | None, end: str | None
) -> str:
    """The SQL script that takes a database from `start` back to the earlier revision `end`."""
    return _offline(command.downgrade, service, dialect, tables, start, end)


def tables() -> Tables:
    """The library's tables in the database of the migration that runs."""
    job: _Online | _Offline = context.config.attributes["job"]
    return job.tables


@dataclass(frozen=True)
class OrchestratorVersion:
    """A version of the tables of the orchestrator, in the migration that runs."""

    number: int

    def upgrade(self) -> None:
        """Come to it from the one before."""
        orchestrator.schema.step_up(op, self.number, tables())

    def downgrade(self) -> None:
        """Go back from it to the one before."""
        orchestrator.schema.step_down(op, self.number, tables())


def run() -> None:
    """Run the revisions. Only for env.py, which Alembic executes."""
    job = context.config.attributes.get("job")
    match job:
        case _Online():
            job.tables.create_schema(job.connection)
            context.configure(
                connection=job.connection,
                transactional_ddl=True,
                on_version_apply=_recorder(job),
                **books(job.tables),
            )
        case _Offline():
            context.configure(
                dialect_name=job.dialect,
                literal_binds=True,
                transactional_ddl=True,
                on_version_apply=_recorder(job),
                **books(job.tables),
            )
        case _:
            raise MigrationError(
                "Alembic's own command was used on this history",
                "it takes no lock and keeps no record of the revisions' kinds",
                "sagabox migrate --help",
            )
    with context.begin_transaction():
        context.run_migrations()


def books(tables: Tables) -> Mapping[str, Any]:
    """Alembic's options that say where it notes the revision of this installation."""
    return {"version_table": tables.name(ALEMBIC), "version_table_schema": tables.schema}


@contextmanager
def _prepared(
    service: Service, job: _Online | _Offline, output: StringIO | None = None
) -> Iterator[Config]:
    if not _running.acquire(blocking=False):
        raise RuntimeError("a migration is running in this process; run them one after the other")
    try:
        config = Config(output_buffer=output)
        config.set_main_option("script_location", str(service.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["job"] = job
        yield config
    finally:
        _running.release()


def _offline(
    run_command: Callable[..., None],
    service: Service,
    dialect: Dialect,
    tables: Tables,
    start: str | None,
    end: str | None,
) -> str:
    output = StringIO()
    with _prepared(service, _Offline(dialect, tables), output) as config:
        run_command(config, f"{start or 'base'}:{end or 'base'}", sql=True)
    return output.getvalue()


# Alembic calls these after each step. Without heads the first revision has gone, and the table of
# the record with it.


def _recorder(job: _Online | _Offline) -> Callable[..., None]:
    def record(
        ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: object
    ) -> None:
        revision = _script(step)
        job.steps.append(Step(revision.revision, step.is_upgrade))
        if step.is_upgrade:
            job.record(ctx, revision.revision, kind_of(revision))
        elif heads:
            job.forget(ctx, revision.revision)

    return record


# The time at which a script runs, plus as many microseconds as steps: the order of the revisions is
# read from their times.
_NOW: Mapping[Dialect, str] = {
    "postgresql": "clock_timestamp() + interval '{} microseconds'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', 'now') || '.{:06}'",
}


def _script(step: MigrationInfo) -> Script:
    script = step.up_revision
    assert isinstance(script, Script), f"{step!r} has no file"
    return script
