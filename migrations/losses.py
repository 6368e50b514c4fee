"""The losses of a downgrade: the tables' contents before it, compared with those after it.

No revision declares its losses, so none can forget to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, TableClause, column, func, inspect, select, table, text

from migrations.installations import ALEMBIC, present
from outbox.tables import DEFAULT_TABLES, Tables

_BOOKS = (ALEMBIC, "schema_revision")
"""The tables in which the migrations keep their own books."""


@dataclass(frozen=True)
class Content:
    """The number of a table's rows, and for each column how many of them have a value."""

    rows: int
    values: Mapping[str, int]


def contents(connection: Connection, tables: Tables = DEFAULT_TABLES) -> Mapping[str, Content]:
    """The content of each table. On PostgreSQL no other transaction can write until this one
    ends."""
    books = {tables.name(it) for it in _BOOKS}
    found = [
        table(it.name, schema=it.schema)
        for it in present(connection, tables)
        if it.name not in books
    ]
    if found and connection.dialect.name == "postgresql":
        in_sql = connection.dialect.identifier_preparer.format_table
        connection.execute(text(f"LOCK TABLE {', '.join(map(in_sql, found))} IN SHARE MODE"))
    return {str(it): _content(connection, it) for it in found}


def lost(before: Mapping[str, Content], after: Mapping[str, Content]) -> list[str]:
    """The losses between `before` and `after`, a part of a sentence for each."""
    return [it for name in before for it in _lost(name, before[name], after.get(name))]


def _lost(name: str, before: Content, after: Content | None) -> list[str]:
    if after is None:
        return [f"the table {name} with {_rows(before.rows)}"] if before.rows else []
    losses = []
    if after.rows < before.rows:
        losses.append(f"{_rows(before.rows - after.rows)} of the table {name}")
    losses += [
        f"the column {name}.{it} with {count} value{'s' if count != 1 else ''}"
        for it, count in before.values.items()
        if count and it not in after.values
    ]
    return losses


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"


def _content(connection: Connection, of: TableClause) -> Content:
    columns = [it["name"] for it in inspect(connection).get_columns(of.name, of.schema)]
    counts = [func.count(column(it)) for it in columns]
    found = connection.execute(select(func.count(), *counts).select_from(of)).one()
    return Content(found[0], dict(zip(columns, found[1:], strict=True)))
