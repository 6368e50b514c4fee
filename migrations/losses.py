"""The losses of a downgrade: the tables' contents before it, compared with those after it.

No revision declares its losses, so none can forget to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, column, func, inspect, select, table, text

BOOKS = frozenset({"alembic_version", "schema_revision"})
"""The tables in which the migrations keep their own books."""


@dataclass(frozen=True)
class Content:
    """The number of a table's rows, and for each column how many of them have a value."""

    rows: int
    values: Mapping[str, int]


def contents(connection: Connection) -> Mapping[str, Content]:
    """The content of each table. On PostgreSQL no other transaction can write until this one
    ends."""
    inspector = inspect(connection)
    names = sorted(set(inspector.get_table_names()) - BOOKS)
    if names and connection.dialect.name == "postgresql":
        quote = connection.dialect.identifier_preparer.quote
        connection.execute(text(f"LOCK TABLE {', '.join(map(quote, names))} IN SHARE MODE"))
    return {
        name: _content(connection, name, [it["name"] for it in inspector.get_columns(name)])
        for name in names
    }


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


def _content(connection: Connection, name: str, columns: list[str]) -> Content:
    counts = [func.count(column(it)) for it in columns]
    found = connection.execute(select(func.count(), *counts).select_from(table(name))).one()
    return Content(found[0], dict(zip(columns, found[1:], strict=True)))
