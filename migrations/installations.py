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


def present(connection: Connection, tables: Tables) -> Iterator[Name]:
    """The tables of the installation, of the service around it, and those that are unknown."""
    inspector = inspect(connection)
    own = {tables.name(it) for it in _OF_EACH}
    for schema in {None, tables.schema}:
        for name in sorted(inspector.get_table_names(schema)):
            is_of_one = name.endswith(_OF_EACH)
            if not is_of_one or (schema == tables.schema and name in own):
                yield Name(schema, name)
