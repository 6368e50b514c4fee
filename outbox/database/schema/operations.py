"""Alembic's operations, on the tables of one installation: each has its name there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Connection, Constraint
from sqlalchemy.schema import CreateSchema

from outbox.database.table_set import TableSet, set_storage

if TYPE_CHECKING:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext


class TableOperations:
    """The operations of a migration. Tables, indexes and constraints are given by their plain
    names."""

    def __init__(self, op: Operations | Any, tables: TableSet) -> None:
        self._op = op
        self._tables = tables

    def create_schema(self) -> None:
        """Create the schema of the tables, unless it is there."""
        context, schema = self._op.get_context(), self._tables.schema
        if schema is not None and context.as_sql:
            self._op.execute(CreateSchema(schema, if_not_exists=True))
        elif schema is not None:
            connection: Connection = self._op.get_bind()
            self._tables.require(connection.engine)
            self._tables.create_schema(connection)

    def get_context(self) -> MigrationContext:
        """As Alembic's."""
        context: MigrationContext = self._op.get_context()
        return context

    def in_sql(self, plain: str) -> str:
        """The name of that table as it stands in SQL."""
        return self._tables.in_sql(plain)

    def create_table(
        self, plain: str, *parts: Any, storage: Mapping[str, int] | None = None, **options: Any
    ) -> None:
        """As Alembic's, with those storage parameters on PostgreSQL."""
        for part in parts:
            if isinstance(part, Constraint) and part.name is not None:
                part.name = self._tables.name(str(part.name))
        name, schema = self._tables.name(plain), self._tables.schema
        self._op.create_table(name, *parts, schema=schema, **options)
        if storage is not None and self.get_context().dialect.name == "postgresql":
            self._op.execute(set_storage(self.in_sql(plain), storage))

    def drop_table(self, plain: str) -> None:
        """As Alembic's."""
        self._op.drop_table(self._tables.name(plain), schema=self._tables.schema)

    def add_column(self, table: str, column: Column[Any]) -> None:
        """As Alembic's."""
        self._op.add_column(self._tables.name(table), column, schema=self._tables.schema)

    def drop_column(self, table: str, column: str) -> None:
        """As Alembic's."""
        self._op.drop_column(self._tables.name(table), column, schema=self._tables.schema)

    def create_index(self, plain: str, table: str, columns: list[Any], **options: Any) -> None:
        """As Alembic's."""
        name, on = self._tables.name(plain), self._tables.name(table)
        self._op.create_index(name, on, columns, schema=self._tables.schema, **options)

    def drop_index(self, plain: str, table: str) -> None:
        """As Alembic's."""
        name, on = self._tables.name(plain), self._tables.name(table)
        self._op.drop_index(name, on, schema=self._tables.schema)

    def execute(self, statement: Any) -> None:
        """As Alembic's."""
        self._op.execute(statement)
