"""The drift of a database from the models: one sentence for each difference."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, MetaData, inspect, select

from migrations import conditions
from migrations.history import History
from migrations.losses import BOOKS
from outbox import schema, tables
from outbox.database.schema.drift import drift


def differences(connection: Connection, metadata: MetaData) -> list[str]:
    """The changes that would make the database equal to the models; none if they agree.

    Compares the tables with their columns, types, defaults, indexes, keys and constraints, those of
    the service and those of the library, names what drops, hides or changes their rows, and finds
    tables that belong to neither.
    """
    present = set(inspect(connection).get_table_names())
    return [
        *schema.differences(connection),
        *drift(connection, metadata),
        *(
            sentence
            for table in (*tables.metadata.sorted_tables, *metadata.sorted_tables)
            if table.name in present
            for sentence in conditions.differences(connection, table)
        ),
        *_strangers(present, metadata),
    ]


def unrecorded(connection: Connection, place: str | None, history: History) -> list[str]:
    """A sentence for each revision up to `place` that was applied without a record of its kind."""
    table = tables.schema_revision
    if place is None or not inspect(connection).has_table(table.name):
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


def _strangers(present: set[str], metadata: MetaData) -> Iterator[str]:
    for name in sorted(present - BOOKS - set(metadata.tables) - set(tables.metadata.tables)):
        yield f"the table {name} should not be there"
