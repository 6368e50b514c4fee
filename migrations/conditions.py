"""The comparison of a table's check constraints and partial indexes with its model's.

PostgreSQL rewrites a condition, so its text cannot be compared with the model's. So the model's is
rewritten too, in a temporary table, which is dropped at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Index,
    MetaData,
    Table,
    inspect,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable

_SCRATCH = "sagabox_migrations_check"

Conditions = Mapping[str, str]
"""The condition of each named thing of a table, in one spelling."""


def differences(connection: Connection, table: Table) -> Iterator[str]:
    """One sentence for each check constraint and each partial index that differs."""
    checks, indexes = _declared(connection, table)
    if connection.dialect.name == "postgresql" and (checks or indexes):
        checks, indexes = _respelled(connection, table, checks, indexes)
    yield from _compare(f"the check constraint {{}} of {table}", _checks(connection, table), checks)
    # Missing and surplus indexes are reported elsewhere.
    found = _indexes(connection, table)
    known = {it for it in found if it in {str(index.name) for index in table.indexes}}
    yield from _compare(
        f"the condition of the index {{}} of {table}",
        {name: found[name] for name in known if found[name]},
        {name: condition for name, condition in indexes.items() if name in known},
    )


def _compare(subject: str, found: Conditions, wanted: Conditions) -> Iterator[str]:
    for name in sorted({*found, *wanted}):
        if name not in found:
            yield f"{subject.format(name)} is missing"
        elif name not in wanted:
            yield f"{subject.format(name)} should not be there"
        elif found[name] != wanted[name]:
            yield f"{subject.format(name)} is {found[name]} and should be {wanted[name]}"


def _declared(connection: Connection, table: Table) -> tuple[Conditions, Conditions]:
    checks = {
        str(it.name): _spelled(connection, it.sqltext)
        for it in table.constraints
        if isinstance(it, CheckConstraint)
    }
    indexes = {
        str(it.name): _spelled(connection, condition)
        for it in table.indexes
        if (condition := it.dialect_options[connection.dialect.name]["where"]) is not None
    }
    return checks, indexes


def _respelled(
    connection: Connection, table: Table, checks: Conditions, indexes: Conditions
) -> tuple[Conditions, Conditions]:
    scratch = Table(
        _SCRATCH,
        MetaData(),
        *(Column(it.name, it.type) for it in table.columns),
        *(CheckConstraint(condition, name=name) for name, condition in checks.items()),
        prefixes=["TEMPORARY"],
    )
    first = next(iter(scratch.columns))
    savepoint = connection.begin_nested()
    try:
        connection.execute(CreateTable(scratch))
        for name, condition in indexes.items():
            connection.execute(CreateIndex(Index(name, first, postgresql_where=text(condition))))
        return _checks(connection, scratch), _indexes(connection, scratch)
    finally:
        savepoint.rollback()


def _checks(connection: Connection, table: Table) -> Conditions:
    constraints = inspect(connection).get_check_constraints(table.name, table.schema)
    return {str(it["name"]): _compact(it["sqltext"]) for it in constraints}


def _indexes(connection: Connection, table: Table) -> Conditions:
    """The condition of each index; empty where it has none."""
    option = f"{connection.dialect.name}_where"
    return {
        str(it["name"]): _compact(str(it.get("dialect_options", {}).get(option, "")))
        for it in inspect(connection).get_indexes(table.name, table.schema)
    }


def _spelled(connection: Connection, condition: ColumnElement[Any]) -> str:
    options = {"literal_binds": True, "include_table": False}
    return _compact(str(condition.compile(dialect=connection.dialect, compile_kwargs=options)))


def _compact(condition: str) -> str:
    return re.sub(r"\s+", " ", condition).strip()
