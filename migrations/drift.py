"""In what a database differs from the models: one sentence for each difference."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, MetaData, inspect

from migrations import conditions
from migrations.losses import BOOKS
from outbox import schema, tables
from outbox.schema_drift import drift


def differences(connection: Connection, metadata: MetaData) -> list[str]:
    """What has to change in the database for it to be what the models say; nothing: they agree.

    Compares the tables with their columns, types, defaults, indexes, keys and constraints, those of
    the service and those of the library, and finds tables that belong to neither.
    """
    present = set(inspect(connection).get_table_names())
    return [
        *schema.differences(connection),
        *drift(connection, metadata),
        *(
            sentence
            for table in metadata.sorted_tables
            if table.name in present
            for sentence in conditions.differences(connection, table)
        ),
        *_strangers(present, metadata),
    ]


def _strangers(present: set[str], metadata: MetaData) -> Iterator[str]:
    for name in sorted(present - BOOKS - set(metadata.tables) - set(tables.metadata.tables)):
        yield f"the table {name} should not be there"
