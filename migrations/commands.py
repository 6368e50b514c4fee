"""The commands, from values to values: the terminal is the business of cli.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from migrations import drift, environment, failures, guests, losses
from migrations.databases import Database, connected
from migrations.environment import Dialect, Step
from migrations.errors import MigrationError
from migrations.history import BASE, History, history_of
from migrations.services import SERVICES, Service
from outbox.clock import Clock
from outbox.tables import DEFAULT_TABLES, Tables

# Two numbers, so that no lock of one number, as the outbox and the services use, is ever the same.
LOCK = (int.from_bytes(b"saga"), 1)
_WAIT_FOR_OTHERS = 60.0  # seconds
_NEWER_CODE = "use the version of sagabox that made it: pip install --upgrade sagabox"
LOCK_TIMEOUT = 5.0
"""Seconds that a revision waits for a table by default; the table's users wait behind it."""


@dataclass(frozen=True)
class Moved:
    """The steps of an upgrade or a downgrade. Without steps the database was there already."""

    now_at: str | None
    steps: Sequence[Step]
    deleted: Sequence[str] = ()


@dataclass(frozen=True)
class Standing:
    """The revision of a database. `newer` are revisions that this code does not know."""

    current: str | None
    head: str
    behind: int
    newer: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """The differences between a database and the code, a sentence each; without any it may
    serve."""

    differences: Sequence[str]
    next_step: str


@dataclass(frozen=True)
class Waiting:
    """The waits for locks: how long, and whom to tell before a wait for another migration."""

    lock_timeout: float = LOCK_TIMEOUT
    for_others: float = _WAIT_FOR_OTHERS
    tell: Callable[[str], None] = lambda _: None


async def upgrade(
    service: Service,
    database: Database,
    target: str = "head",
    *,
    clock: Clock,
    waiting: Waiting | None = None,
) -> Moved:
    """Bring the database up to `target`, in one transaction. A SQLite file is made if need be.

    Raises MigrationError, having changed nothing.
    """
    history = history_of(service)

    def work(connection: Connection) -> Moved:
        _lock(connection, waiting or Waiting())
        current = _known(connection, database.tables, service, history)
        place = history.resolve(target, current)
        if history.position(place) < history.position(current):
            raise _wrong_way(service, current, place, "downgrade")
        if place is None or place == current:
            return Moved(current, ())
        guests.require_books(connection, database.tables, service, current)
        steps = environment.upgrade(service, connection, place, clock.now(), database.tables)
        _verify_foreign_keys(connection)
        return Moved(place, steps)

    async with connected(database, writes=True) as connection:
        return await connection.run_sync(work)


async def downgrade(
    service: Service,
    database: Database,
    target: str,
    *,
    clock: Clock,
    delete_data: bool = False,
    waiting: Waiting | None = None,
) -> Moved:
    """Bring the database back to `target`, in one transaction.

    Raises MigrationError, having changed nothing; also where it would delete data and `delete_data`
    does not allow that.
    """
    history = history_of(service)
    if database.is_missing_file:
        raise _no_file(service, database)

    def work(connection: Connection) -> Moved:
        _lock(connection, waiting or Waiting())
        current = _known(connection, database.tables, service, history)
        place = history.resolve(target, current)
        if history.position(place) > history.position(current):
            raise _wrong_way(service, current, place, "upgrade")
        if place == current:
            return Moved(current, ())
        guests.require_books(connection, database.tables, service, current)
        before = losses.contents(connection, database.tables)
        steps = environment.downgrade(service, connection, place, clock.now(), database.tables)
        _verify_foreign_keys(connection)
        deleted = losses.lost(before, losses.contents(connection, database.tables))
        if deleted and not delete_data:
            raise MigrationError(
                f"the downgrade of {service.name} to {place or BASE} would delete data, "
                "so nothing was changed",
                f"it deletes {'; '.join(deleted)}",
                f"make a backup, then: sagabox migrate downgrade {service.name} "
                f"{place or BASE} --yes-delete-data",
            )
        return Moved(place, steps, deleted)

    async with connected(database, writes=True) as connection:
        return await connection.run_sync(work)


async def current(service: Service, database: Database) -> Standing:
    """The standing of the database. Changes nothing; a missing SQLite file stays missing."""
    history = history_of(service)
    if database.is_missing_file:
        return _standing(None, history, [])
    async with connected(database, writes=False) as connection:
        return await connection.run_sync(_find, database.tables, service, history)


async def check(service: Service, database: Database) -> Findings:
    """Compare the database with the code, and change nothing."""
    history = history_of(service)
    upgrade_it = f"sagabox migrate upgrade {service.name}"
    if database.is_missing_file:
        return Findings([f"there is no database yet: {database.path} does not exist"], upgrade_it)

    def work(connection: Connection) -> Findings:
        tables = database.tables
        standing = _find(connection, tables, service, history)
        unrecorded = drift.unrecorded(connection, tables, standing.current, history)
        if standing.newer:
            newer = f"the database is newer than this code, by {', '.join(standing.newer)}"
            return Findings([newer, *unrecorded], _NEWER_CODE)
        if standing.behind:
            place = standing.current or BASE
            return Findings(
                [f"the database is at {place}, and the code's newest is {standing.head}"],
                upgrade_it,
            )
        return Findings(
            [*unrecorded, *drift.differences(connection, service.metadata(tables), tables)],
            "write a revision for what the models have more, and undo what was done by hand",
        )

    async with connected(database, writes=False) as connection:
        return await connection.run_sync(work)


def sql(
    service: Service,
    dialect: Dialect,
    span: str = f"{BASE}:head",
    tables: Tables = DEFAULT_TABLES,
) -> str:
    """A script of one transaction from START to END of `span`; "END" alone starts at base.

    Raises MigrationError for an unknown revision.
    """
    history = history_of(service)
    left, _, right = span.rpartition(":")
    start = history.resolve(left or BASE, None)
    end = history.resolve(right, start)
    if history.position(start) == history.position(end):
        raise MigrationError(
            f"there is no SQL from {start or BASE} to {end or BASE}",
            "both are the same revision",
            f"sagabox migrate sql {service.name} {BASE}:head",
        )
    if history.position(start) < history.position(end):
        return environment.offline(service, dialect, tables, start, end)
    return environment.offline_back(service, dialect, tables, start, end)


def _find(connection: Connection, tables: Tables, service: Service, history: History) -> Standing:
    found = guests.in_books(connection, tables) or guests.beside(connection, tables, history)
    if history.knows(found):
        return _standing(found, history, [])
    return _standing(found, history, _newer(connection, tables, found, service, history))


def _newer(
    connection: Connection,
    tables: Tables,
    found: str | None,
    service: Service,
    history: History,
) -> list[str]:
    """The revisions beyond this history; raises MigrationError where the database has another
    service's history."""
    for other in SERVICES.values():
        if other.name != service.name and history_of(other).knows(found):
            raise MigrationError(
                f"this is the database of {other.name}, not of {service.name}",
                f"it stands at {found}, and each service has a database of its own",
                f"give the address of the database of {service.name} in {service.variable} "
                "or with --database",
            )
    noted = guests.noted(connection, tables)
    if not noted:
        raise MigrationError(
            f"this is the database of another program, not of {service.name}",
            f"it stands at {found}, and no migration of {service.name} has been applied",
            f"give the address of the database of {service.name}; where it is within this one, "
            "its tables have a prefix: export SAGABOX_TABLE_PREFIX=orchestrator_",
        )
    return [it for it in noted if not history.knows(it)] or [str(found)]


def _standing(found: str | None, history: History, newer: Sequence[str]) -> Standing:
    behind = 0 if newer else len(history.revisions) - history.position(found)
    return Standing(found, history.head, behind, newer)


def _known(
    connection: Connection, tables: Tables, service: Service, history: History
) -> str | None:
    """The database's revision; raises MigrationError where this code cannot go on from it."""
    standing = _find(connection, tables, service, history)
    if not standing.newer:
        return standing.current
    raise MigrationError(
        f"the database of {service.name} is newer than this code",
        f"it stands at {standing.current}, and the newest that is known here is {history.head}",
        _NEWER_CODE,
    )


def _lock(connection: Connection, waiting: Waiting) -> None:
    """Let one migration of a database run at a time. SQLite's transaction does that by itself."""
    if connection.dialect.name == "sqlite":
        return
    first, second = LOCK
    free = connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({first}, {second})"))
    if not free:
        waiting.tell("waiting for another migration of this database to end")
        _set_lock_timeout(connection, waiting.for_others)
        try:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({first}, {second})"))
        except DBAPIError as error:
            if failures.is_lock_timeout(error):
                raise failures.other_migration(waiting.for_others) from error
            raise
    _set_lock_timeout(connection, waiting.lock_timeout)


def _set_lock_timeout(connection: Connection, seconds: float) -> None:
    connection.execute(
        text("SELECT set_config('lock_timeout', :value, true)"),
        {"value": f"{max(1, round(seconds * 1000))}ms"},
    )


def _verify_foreign_keys(connection: Connection) -> None:
    # They are off while a migration runs on SQLite, so what it left is looked through at the end.
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise MigrationError(
            f"the migration left a row of {broken[0]} without its row in {broken[2]}, "
            "so nothing was changed",
            "a revision deletes or rebuilds a table that others refer to",
            f"correct the revision, or the row of {broken[0]} with rowid {broken[1]}",
        )


def _wrong_way(
    service: Service, found: str | None, place: str | None, command: str
) -> MigrationError:
    side = "before" if command == "downgrade" else "after"
    return MigrationError(
        f"{place or BASE} lies {side} {found or BASE}, where {service.name} stands",
        "an upgrade goes forward only, and a downgrade back only",
        f"sagabox migrate {command} {service.name} {place or BASE}",
    )


def _no_file(service: Service, database: Database) -> MigrationError:
    return MigrationError(
        f"{service.name} has no database yet",
        f"{database.path} does not exist",
        f"sagabox migrate upgrade {service.name}",
    )
