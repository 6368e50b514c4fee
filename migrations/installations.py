"""The tables of a database, without those of other installations that share it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, inspect

from orchestrator.tables import PLAIN
from outbox.tables import DEFAULT_TABLES, Tables

ALEMBIC = "alembic_version"
"""Alembic's own table, without a prefix."""

_OF_EACH = (ALEMBIC, *DEFAULT_TABLES.metadata.tables, *PLAIN.metadata.tables)


class Name(NamedTuple):
    """The name of a table, and its schema; None for the one in which the connection looks first."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


def name_of(connection: Connection, schema: str | None, name: str) -> Name:
    """The name of that table, alike whether its schema is given or is the default one."""
    return Name(None if schema == connection.dialect.default_schema_name else schema, name)


def present(connection: Connection, tables: Tables) -> Iterator[Name]:
    """The tables of the installation, of the service around it, and those that are unknown."""
    inspector = inspect(connection)
    own = {name_of(connection, tables.schema, tables.name(it)) for it in _OF_EACH}
    for schema in {None, tables.schema}:
        for name in sorted(inspector.get_table_names(schema)):
            found = name_of(connection, schema, name)
            if found in own or not name.endswith(_OF_EACH):
                yield found
