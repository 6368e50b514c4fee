"""Ids in the columns of different services, and as texts that can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import SQLColumnExpression, Uuid, select
from sqlalchemy.types import TypeEngine


def as_key(value: Any) -> str:
    """A value of an id's column as the text that stands for the entity everywhere."""
    return str(value)


def as_values(place: SQLColumnExpression[Any], keys: Iterable[str]) -> list[Any]:
    """The keys as that column would hold them. One that it cannot hold is left out."""
    type_ = _type(place)
    values = []
    for key in keys:
        try:
            values.append(_value(type_, key))
        except ValueError:
            continue
    return values


def column_of(place: SQLColumnExpression[Any]) -> tuple[str, str | None]:
    """The names of the column's table and of the column: the same for the same column."""
    query = select(place)
    return (table_of(place), query.selected_columns[0].key)


def table_of(place: SQLColumnExpression[Any]) -> str:
    """The name of the column's table. Raises ValueError where it belongs to none, or to several."""
    (table,) = select(place).get_final_froms()
    name = getattr(table, "name", None)
    if not isinstance(name, str) or not isinstance(place, SQLColumnExpression):
        raise ValueError(f"{place} is no column of a table")
    return name


def _type(place: SQLColumnExpression[Any]) -> TypeEngine[Any]:
    return select(place).selected_columns[0].type


def _value(type_: TypeEngine[Any], key: str) -> Any:
    if isinstance(type_, Uuid):
        return UUID(key) if type_.as_uuid else str(UUID(key))
    return type_.python_type(key)
