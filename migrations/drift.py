"""The drift of a database from the models: one sentence for each difference."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, MetaData, inspect, select

from migrations import conditions
from migrations.history import History
from migrations.installations import ALEMBIC, Name, name_of, present
from outbox import schema
from outbox.database.schema.drift import drift
from outbox.database.table_set import has_table
from outbox.tables import DEFAULT_TABLES, Tables


def differences(
    connection: Connection, metadata: MetaData, tables: Tables = DEFAULT_TABLES
) -> list[str]:
    """The changes that would make the database equal to the models; none if they agree.

    Compares the tables with their columns, types, defaults, indexes, keys and constraints, those of
    the service and those of the library, names what drops, hides or changes their rows, and finds
    tables that belong to neither; with a prefix, only those whose names begin with it.
    """
    found = {it for it in present(connection, tables) if it.name.startswith(tables.prefix)}
    declared = {
        name_of(connection, it.schema, it.name): it
        for it in (*tables.metadata.sorted_tables, *metadata.sorted_tables)
    }
    return [
        *schema.differences(connection, tables),
        *drift(connection, metadata),
        *(
            sentence
            for name, table in declared.items()
            if name in found
            for sentence in conditions.differences(connection, table)
        ),
        *_strangers(found - {*declared, name_of(connection, tables.schema, tables.name(ALEMBIC))}),
    ]


def unrecorded(
    connection: Connection, tables: Tables, place: str | None, history: History
) -> list[str]:
    """A sentence for each revision up to `place` that was applied without a record of its kind."""
    table = tables.schema_revision
    if place is None or not has_table(inspect(connection), table):
        return []
    recorded = set(connection.scalars(select(table.c.revision)))
    ids = [it.id for it in history.revisions]
    applied = ids[: ids.index(place) + 1] if place in ids else place.split(", ")
    return [
        f"the revision {it} was applied, and its kind is not recorded, so that services refuse to "
        "start; apply revisions with: sagabox migrate upgrade"
        for it in applied
        if it not in recorded
    ]


def _strangers(found: set[Name]) -> Iterator[str]:
    for name in sorted(map(str, found)):
        yield f"the table {name} should not be there"
