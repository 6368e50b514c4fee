"""The names of what an installation has in its database: a prefix, and a schema of PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, Inspector, MetaData, Table
from sqlalchemy.dialects import postgresql

# SQLite quotes in the same way.
_quoting = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]  # as of SQLAlchemy


class TableSet:
    """Tables whose names begin with `prefix`, in that schema of PostgreSQL; without one they are
    where the connection looks first."""

    def __init__(self, prefix: str = "", schema: str | None = None) -> None:
        self.prefix = prefix
        self.schema = schema
        self.metadata = MetaData(schema=schema)

    def name(self, plain: str) -> str:
        """The name of what is called `plain` without a prefix."""
        return self.prefix + plain

    def in_sql(self, plain: str) -> str:
        """That name as it stands in SQL, with the schema."""
        place = "" if self.schema is None else f"{_quoting.quote(self.schema)}."
        return place + _quoting.quote(self.name(plain))

    def table(self, plain: str, *parts: Any, **options: Any) -> Table:
        """Declare another table among these."""
        return Table(self.name(plain), self.metadata, *parts, **options)

    def index(self, plain: str, *columns: Any, **options: Any) -> Index:
        """An index for one of these tables."""
        return Index(self.name(plain), *columns, **options)


def in_sql(table: Table) -> str:
    """The name of the table as it stands in SQL, with its schema."""
    return _quoting.format_table(table)


def has_table(inspector: Inspector, table: Table) -> bool:
    """Whether the database has a table of that name in its place."""
    return inspector.has_table(table.name, table.schema)
