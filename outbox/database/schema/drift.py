"""The drift of a database from the declared tables: one sentence for each difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
    inspect,
)

from outbox.database.schema.hazards import hazards


def drift(connection: Connection, metadata: MetaData) -> Iterator[str]:
    """The differences in the tables of `metadata`; what else the database holds is not looked at.

    Compared are columns with their types, defaults and nullability, indexes, keys, and unique
    constraints; and named is what drops, hides or changes rows beside them.
    """

    # What stands in the default schema has no schema when Alembic asks.
    is_default = metadata.schema == connection.dialect.default_schema_name
    schema = None if is_default else metadata.schema
    ours = {it.name for it in metadata.tables.values()}

    def is_ours(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        # For what belongs to a table, the table has been asked for before.
        match kind:
            case "schema":
                return name == schema
            case "table":
                return name in ours and parents.get("schema_name") == schema
            case _:
                return True

    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_schemas": schema is not None,
            "include_name": is_ours,
        },
    )
    for difference in compare_metadata(context, metadata):
        # The changes of one column come in a list of their own.
        for each in difference if isinstance(difference, list) else [difference]:
            if not _is_beyond(connection, each):
                yield _sentence(each)
    present = set(inspect(connection).get_table_names(metadata.schema))
    for table in metadata.sorted_tables:
        if table.name in present:
            yield from _primary_key(connection, table)
    yield from hazards(connection, metadata)


def _is_beyond(connection: Connection, difference: tuple[Any, ...]) -> bool:
    """Whether the database lacks the feature, and does the same in another way: SQLite's
    identities."""
    match difference:
        case ("modify_default", *_, Identity()):
            return not connection.dialect.supports_identity_columns
        case _:
            return False


def _primary_key(connection: Connection, table: Table) -> Iterator[str]:
    found = inspect(connection).get_pk_constraint(table.name, table.schema)["constrained_columns"]
    wanted = [column.name for column in table.primary_key.columns]
    if found != wanted:
        yield (
            f"the primary key of {table} is ({', '.join(found)}) "
            f"and should be ({', '.join(wanted)})"
        )


def _sentence(difference: tuple[Any, ...]) -> str:
    match difference:
        case ("add_table", Table() as table):
            return f"the table {table} is missing"
        case ("add_column", _, table, Column() as column):
            return f"the column {table}.{column.name} is missing"
        case ("remove_column", _, table, Column() as column):
            return f"the column {table}.{column.name} should not be there"
        case ("add_index" | "add_constraint" | "add_fk", item):
            return f"{_named(item)} is missing"
        case ("remove_index" | "remove_constraint" | "remove_fk", item):
            return f"{_named(item)} should not be there"
        case ("modify_type", _, table, column, _, found, wanted):
            return f"the type of {table}.{column} is {found!r} and should be {wanted!r}"
        case ("modify_nullable", _, table, column, _, found, _):
            return f"{table}.{column} {'may' if found else 'may not'} be empty, wrongly"
        case ("modify_default", _, table, column, _, found, wanted):
            default, expected = _default(found), _default(wanted)
            return f"the default of {table}.{column} is {default} and should be {expected}"
        case _:
            return f"the database differs from the declared tables: {difference!r}"


def _named(item: Index | UniqueConstraint | ForeignKeyConstraint) -> str:
    columns = ", ".join(column.name for column in item.columns)
    return f"the {item.__visit_name__.replace('_', ' ')} {item.name} ({columns}) of {item.table}"


def _default(value: Any) -> str:
    argument = getattr(value, "arg", value)
    return str(getattr(argument, "text", argument))
