"""The library's tables in a service's database: made and changed by the service's own migrations.

    from alembic import op
    from outbox import schema

    def upgrade():
        schema.upgrade(op, to=1)

The service records its own revisions beside them, each with a kind: after an `expand` revision the
code of the revision before still runs, after a `contract` revision it does not. So code that finds
a database newer than itself can tell whether it may run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import (
    Connection,
    Engine,
    column,
    delete,
    func,
    insert,
    inspect,
    select,
    table,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engines import reading
from outbox.database.schema.grants import require_grants
from outbox.database.schema.operations import TableOperations
from outbox.database.schema.versions import VERSIONS
from outbox.database.table_set import has_table
from outbox.errors import SchemaMissing, SchemaNewer, SchemaOlder, TablesOfAnother
from outbox.sqlite import READ_ONLY
from outbox.tables import DEFAULT_TABLES, Tables

if TYPE_CHECKING:
    from alembic.operations import Operations

LATEST = len(VERSIONS)
"""The version of the tables that this release needs."""

_DATABASE_UNKNOWN = "3D000"  # an SQLSTATE of PostgreSQL


def upgrade(
    op: Operations | Any, *, to: int = LATEST, start: int = 0, tables: Tables = DEFAULT_TABLES
) -> None:
    """Take the tables from version `start` to version `to`, within a migration; `op` is Alembic's.

    Name `to`, so that the migration does the same for ever. `tables` are those of the service;
    their schema is created unless it is there.
    Raises ValueError for an unknown version.
    """
    _check(start, to)
    named = TableOperations(op, tables)
    if start == 0:
        named.create_schema()
    for version in VERSIONS[start:to]:
        version.upgrade(named)


def downgrade(
    op: Operations | Any, *, to: int, start: int, tables: Tables = DEFAULT_TABLES
) -> None:
    """Take the tables back from version `start` to version `to`; 0 drops them."""
    _check(to, start)
    for version in reversed(VERSIONS[to:start]):
        version.downgrade(TableOperations(op, tables))


def differences(connection: Connection, tables: Tables = DEFAULT_TABLES) -> list[str]:
    """The differences of the library's tables from those of this release, a sentence each."""
    # Alembic is for migrations; a service that only checks its database's revision starts without
    # it.
    from outbox.database.schema.drift import drift

    found = list(drift(connection, tables.metadata))
    outbox, inspector = tables.outbox, inspect(connection)
    if connection.dialect.name == "postgresql" and has_table(inspector, outbox):
        names = [it["name"] for it in inspector.get_columns(outbox.name, outbox.schema)]
        if {"xid", "seq"} <= set(names) and names.index("xid") > names.index("seq"):
            found.append(
                f"the column {outbox}.xid stands after {outbox}.seq, so that a transaction draws "
                "its numbers before it has an id, and the relay would pass over messages"
            )
    return found


def record_revision(
    connection: Connection,
    revision: str,
    kind: str,
    now: datetime,
    *,
    tables: Tables = DEFAULT_TABLES,
) -> None:
    """Note within a migration that `revision` was applied; `kind` is `expand` or `contract`."""
    forget_revision(connection, revision, tables=tables)
    latest = _recorded(connection, tables)[-1:]
    # Revisions that are applied in one go would otherwise have no order among them.
    applied_at = max([now, *(each.applied_at + timedelta(microseconds=1) for each in latest)])
    connection.execute(
        insert(tables.schema_revision).values(
            revision=revision, kind=str(kind), applied_at=applied_at
        )
    )


def forget_revision(
    connection: Connection, revision: str, *, tables: Tables = DEFAULT_TABLES
) -> None:
    """Note within a migration that `revision` was taken back."""
    recorded = tables.schema_revision
    connection.execute(delete(recorded).where(recorded.c.revision == revision))


def require_tables(connection: Connection, service: str, tables: Tables = DEFAULT_TABLES) -> None:
    """Raises SchemaMissing or SchemaOlder where the library's tables are not there, or lack
    columns, and GrantMissing where the role may not use them. Cheap enough for each start: it
    compares names, and nothing else."""
    require_grants(connection, service, tables)
    inspector = inspect(connection)
    there = set(inspector.get_table_names(tables.schema))
    wanted = tables.metadata.tables
    missing = [str(it) for it in wanted.values() if it.name not in there]
    if len(missing) == len(wanted):
        raise SchemaMissing(
            f"the database of {service} ({_shown(connection.engine)}) has none of the library's "
            "tables",
            next_step=f"call outbox.schema.upgrade(op, to={LATEST}) in a migration, and apply it",
        )
    step = (
        f"call outbox.schema.upgrade(op, to={LATEST}, start=N) in a new migration, where N is the "
        "version that the last one went to, and apply it"
    )
    if missing:
        raise SchemaOlder(f"the database of {service} lacks the table {missing[0]}", next_step=step)
    for needed in wanted.values():
        columns = {it["name"] for it in inspector.get_columns(needed.name, needed.schema)}
        lacking = [it.name for it in needed.columns if it.name not in columns]
        if lacking:
            raise SchemaOlder(
                f"the table {needed} in the database of {service} lacks the column {lacking[0]}",
                next_step=step,
            )


async def claim_tables(
    engine: AsyncEngine, service: str, now: datetime, tables: Tables = DEFAULT_TABLES
) -> None:
    """Note at the first start that the tables belong to this service; of services that start at
    once, to one of them. Raises TablesOfAnother where they belong to another."""
    owner = await _owner(engine, tables)
    if owner is None:
        make = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert
        claim = make(tables.outbox_service).values(only=1, name=service, since=now)
        async with engine.begin() as connection:
            await connection.execute(claim.on_conflict_do_nothing())
        owner = await _owner(engine, tables)
    if owner != service:
        raise TablesOfAnother(
            f"the library's tables in the database of {service} "
            f"({_shown(engine)}) belong to the service {owner}: each would take the other's "
            "messages for its own",
            next_step=f"correct the address or the name; or give {service} tables of its own, "
            "outbox.Tables(prefix=...); or, if it was called so before, use "
            "outbox.schema.rename_service in a migration",
        )


async def _owner(engine: AsyncEngine, tables: Tables) -> str | None:
    async with reading(engine).connect() as connection:
        owner: str | None = await connection.scalar(select(tables.outbox_service.c.name))
        return owner


def rename_service(
    op: Operations | Any, old: str, new: str, *, tables: Tables = DEFAULT_TABLES
) -> None:
    """Let the tables of the service `old` be those of `new`, within a migration, while none of its
    processes runs. Its inbox knows what it took as before."""
    inboxes = (tables.inbox, tables.inbox_pending, tables.inbox_watermark)
    names = (tables.outbox_service.c.name, *(it.c.consumer for it in inboxes))
    for name in names:
        op.execute(update(name.table).where(name == old).values({name: new}))


async def require_revision(
    engine: AsyncEngine, *, service: str, expected: str, tables: Tables = DEFAULT_TABLES
) -> None:
    """Return if the code that needs the revision `expected` may run on this database.

    That is so if the revision was applied, and after it none of kind `contract`, and none whose
    kind is not recorded; and if the role may use the tables of their owner that stand beside them.
    Raises SchemaMissing, SchemaOlder, SchemaNewer, GrantMissing.
    """
    try:
        async with engine.connect() as connection:
            await connection.execution_options(**READ_ONLY)
            await connection.run_sync(require_grants, service, tables, all_of_owner=True)
            recorded = await connection.run_sync(_recorded_if_any, tables)
            applied = await connection.run_sync(_applied, tables)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _DATABASE_UNKNOWN:
            _refuse_missing(service, "does not exist", "create it, then run")
        raise
    if recorded is None:
        _refuse_missing(service, "has no tables yet", "run")
    if not recorded:
        _refuse_missing(service, "has tables, but no migration has made them", "empty it, then run")
    revisions = [each.revision for each in recorded]
    if expected not in revisions:
        raise SchemaOlder(
            f"the database of {service} stands at {revisions[-1]}, and this code needs {expected}",
            next_step=f"run: sagabox migrate upgrade {service}",
        )
    strange = [it for it in applied if it not in revisions]
    if strange:
        raise SchemaNewer(
            f"the database of {service} stands at the revision {strange[0]}, whose kind is not "
            f"recorded, so that it cannot be known whether this code (made for {expected}) may run",
            next_step=f"apply that revision with the code that has it: sagabox migrate upgrade "
            f"{service}; or record its kind with outbox.schema.record_revision",
        )
    later = recorded[revisions.index(expected) + 1 :]
    contracts = [each.revision for each in later if each.kind != "expand"]
    if contracts:
        raise SchemaNewer(
            f"the database of {service} has the revision {contracts[0]}, which takes away what "
            f"this code (made for {expected}) needs",
            next_step=f"start the code that came with that revision, whose `sagabox migrate "
            f"upgrade {service}` applied it",
        )


def _refuse_missing(service: str, problem: str, step: str) -> NoReturn:
    raise SchemaMissing(
        f"the database of {service} {problem}",
        next_step=f"{step}: sagabox migrate upgrade {service}",
    )


def _recorded_if_any(connection: Connection, tables: Tables) -> Sequence[Any] | None:
    is_there = has_table(inspect(connection), tables.schema_revision)
    return _recorded(connection, tables) if is_there else None


def _applied(connection: Connection, tables: Tables) -> Sequence[str]:
    """The revision in Alembic's own table; none without one, or where this role may not read it."""
    name = tables.name("alembic_version")
    if not inspect(connection).has_table(name, tables.schema):
        return ()
    if connection.dialect.name == "postgresql":
        may_read = select(func.has_table_privilege(tables.in_sql("alembic_version"), "SELECT"))
        if not connection.scalar(may_read):
            return ()
    applied = table(name, column("version_num"), schema=tables.schema)
    return connection.scalars(select(applied.c.version_num)).all()


def _recorded(connection: Connection, tables: Tables) -> Sequence[Any]:
    recorded = tables.schema_revision
    statement = select(recorded).order_by(recorded.c.applied_at)
    return connection.execute(statement).all()


def _check(lower: int, higher: int) -> None:
    if not 0 <= lower <= higher <= LATEST:
        raise ValueError(
            f"there is no way from version {lower} to version {higher} of the library's tables; "
            f"this release knows 0 to {LATEST}"
        )


def _shown(engine: Engine | AsyncEngine) -> str:
    return engine.url.render_as_string(hide_password=True)
