"""SQL for many rows in one statement: they go in as one JSON text, which the database takes apart.

A driver that binds each value of each row costs more than everything else that the engine does for
a step. Pure: texts of SQL, and values made ready for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from outbox.database.table_set import in_sql

_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]  # its constructor has no types


def document(rows: Sequence[Any]) -> str:
    """The rows, or single values, as one JSON text. Times and ids are such that both databases keep
    them as the tables declare: see `Values`."""
    return orjson.dumps(rows).decode()


class Values:
    """The writer of ids and times as a database keeps them."""

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres

    def id(self, text: str | None) -> str | None:
        """An id; SQLite has it without dashes."""
        return text if self._postgres or text is None else text.replace("-", "")

    def ids(self, texts: Iterable[str]) -> list[str | None]:
        """Many ids."""
        return [self.id(text) for text in texts]

    def time(self, moment: datetime | None) -> datetime | str | None:
        """A time in UTC, which `document` writes; SQLite has it with a blank and without a zone."""
        if moment is None:
            return None
        if self._postgres:
            # `document` writes plain times itself, and no others.
            is_plain = type(moment) is datetime and moment.tzinfo is UTC
            return moment if is_plain else moment.isoformat()
        return moment.replace(tzinfo=None).isoformat(" ", timespec="microseconds")


def source(table: Table, names: Sequence[str], parameter: str, *, postgres: bool) -> str:
    """The text after FROM: the rows of the JSON text in `:parameter`, as `r`, with these columns of
    the table and a last one `n`, their place."""
    columns = [table.c[name] for name in names]
    if postgres:
        declared = ", ".join(f"{it.name} {_type(it)}" for it in columns)
        return (
            f"ROWS FROM (json_to_recordset(CAST(:{parameter} AS json)) AS ({declared})) "
            f"WITH ORDINALITY AS r({', '.join([*names, 'n'])})"
        )
    read = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
    return f"(SELECT {read}, key AS n FROM json_each(:{parameter})) AS r"


def insert(table: Table, names: Sequence[str], parameter: str, *, postgres: bool) -> str:
    """The INSERT of the rows in that JSON text, in their order. An ON CONFLICT or a RETURNING may
    follow."""
    listed = ", ".join(names)
    read = ", ".join(f"r.{name}" for name in names)
    rows = source(table, names, parameter, postgres=postgres)
    # Without WHERE, SQLite would take an ON CONFLICT for part of a join.
    return (
        f"INSERT INTO {in_sql(table)} ({listed}) SELECT {read} FROM {rows} WHERE true ORDER BY r.n"
    )


def update(
    table: Table,
    names: Sequence[str],
    by: Sequence[str],
    parameter: str,
    *,
    postgres: bool,
    also: Sequence[str] = (),
    once: Sequence[str] = (),
) -> str:
    """The UPDATE of the rows that agree with the JSON text in the columns `by`: it sets the others,
    those of them in `once` only where they are null, and makes the assignments in `also`, where
    `stored` is the row before."""
    values = {name: f"r.{name}" for name in names}
    values |= {name: f"COALESCE(stored.{name}, r.{name})" for name in once}
    assigned = ", ".join([*also, *(f"{name} = {value}" for name, value in values.items())])
    matched = " AND ".join(f"stored.{name} = r.{name}" for name in by)
    rows = source(table, [*by, *names], parameter, postgres=postgres)
    return f"UPDATE {in_sql(table)} AS stored SET {assigned} FROM {rows} WHERE {matched}"


def _type(column: Column[Any]) -> str:
    return column.type.compile(_POSTGRES)
